"""Checkpoints on their way from the device to the store: what is kept, what waits, and what a bad day cannot harm."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sqlalchemy import update

from tunix_rt_common.child import Child, ToldToLeave
from tunix_rt_common.db.models import CheckpointRecord, JobRecord
from tunix_rt_common.errors import OwnershipLost, Unavailable
from tunix_rt_common.ids import new_id
from tunix_rt_common.jobreport import AnyLine, Story
from tunix_rt_common.reports import CheckpointManifest
from tunix_rt_common.storage.local import LocalStore
from tunix_rt_trainer import handover, saving
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.handover import Handover
from tunix_rt_trainer.publishing import CheckpointPublisher, kept_steps
from tunix_rt_trainer.saving import CheckpointSaver

LINES = TypeAdapter(AnyLine)
FULL_DISK = Path(__file__).with_name("fulldisk.py")
PATIENCE_S = 60
Usage = namedtuple("Usage", "total used free")


class Attempt:
    """A claimed training job, as its child sees it, with a store and a database that can be taken away."""

    def __init__(self, machine, folder, small, store_type=LocalStore):
        self.machine, self.folder, self.small = machine, folder, small
        self.disk, self.scratch = folder / "disk", folder / "scratch"
        self.disk.mkdir()
        self.scratch.mkdir()
        self._heard, pipe = os.pipe()
        os.set_blocking(self._heard, False)
        claim = machine.claim(machine.submit_run())
        self.store = store_type(self.disk / "artifacts")
        self.child = Child(claim, machine.settings, machine.database, self.store, threading.Event(), pipe)
        self.begin()

    def begin(self):
        """What a process has at its start."""
        spec = self.small.SPEC
        others = dict.fromkeys(("dataset_sha256", "tokenizer_sha256", "base_model_sha256"), "0" * 64)
        self.inputs = self.small.inputs(spec).model_copy(update=others)
        self.publisher = CheckpointPublisher(self.child, self.scratch, self.inputs)
        self.saver = CheckpointSaver(self.child, self.scratch, spec.seed, self.inputs)
        self.handover = Handover(self.child, self.publisher)

    def state(self):
        return self.small.fresh_state(self.small.SPEC)

    def save(self, step, loss=None):
        return self.saver.save(StepInfo(step, 100, 0.0, validation_loss=loss), self.state())

    def checkpoint(self, step, loss=None):
        self.handover.add(self.save(step, loss))

    def rows(self):
        return self.machine.all(CheckpointRecord)

    def published(self):
        return [row.step for row in self.rows()]

    def on_disk(self):
        return sorted(int(folder.name.split("-")[1]) for folder in self.scratch.iterdir())

    def lines(self):
        with open(self._heard, closefd=False) as pipe:
            return [LINES.validate_json(line) for line in pipe.readlines()]

    def stories(self):
        return [(line.kind, line.message) for line in self.lines() if isinstance(line, Story)]

    def take_store_away(self):
        self.disk.rename(self.folder / "elsewhere")
        self.disk.touch()

    def bring_store_back(self):
        self.disk.unlink()
        (self.folder / "elsewhere").rename(self.disk)

    def manifest(self, step):
        [row] = [row for row in self.rows() if row.step == step]
        return self.store.get_document(CheckpointManifest, row.manifest_sha256)

    def damage(self, sha256, content=b"damaged"):
        next(self.disk.rglob(sha256)).write_bytes(content)


@pytest.fixture
def open_attempt(tmp_path, open_machine, small, monkeypatch):
    """Opens an attempt whose waits are short."""
    monkeypatch.setattr(handover, "RETRY_S", 0.02)
    monkeypatch.setattr(handover, "POLL_S", 0.02)
    monkeypatch.setattr(saving, "PAUSE_S", 0.0)
    machines = []

    def open_with(store_type=LocalStore, **settings):
        machines.append(open_machine(tmp_path / "home", **settings))
        return Attempt(machines[-1], tmp_path, small, store_type)

    yield open_with
    for machine in machines:
        machine.database.close()


@pytest.fixture
def attempt(open_attempt):
    return open_attempt()


@contextmanager
def in_another_thread(call):
    """The call goes on while the block runs, and has ended well when the block ends."""
    outcome = []

    def run():
        try:
            call()
            outcome.append(None)
        except ToldToLeave as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield outcome
    thread.join(PATIENCE_S)
    assert outcome, "the call did not end"


def eventually(condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_checkpoint_is_stored_then_announced_and_leaves_the_scratch_folder(attempt):
    attempt.checkpoint(3, loss=1.5)
    [row] = attempt.rows()
    manifest = attempt.manifest(3)
    assert (row.step, row.validation_loss, row.size_bytes) == (3, 1.5, sum(file.size_bytes for file in manifest.files))
    assert manifest.run_id == str(attempt.child.claim.run_id)
    assert attempt.on_disk() == []
    assert [event.message for event in attempt.machine.events(attempt.child.claim.job_id)][-1] == (
        "checkpoint of step 3 published"
    )


def test_checkpoint_announced_again_because_its_commit_was_never_answered_is_told_once(attempt):
    saved = attempt.save(3)
    manifest_sha256 = attempt.publisher.store(saved)
    for _ in range(2):
        attempt.publisher.announce(saved, manifest_sha256)
    told = [event.detail for event in attempt.machine.events(attempt.child.claim.job_id) if event.kind == "checkpoint"]
    assert told == [{"step": 3}]
    assert attempt.published() == [3]


def test_restored_state_is_the_newest_published_one_bit_for_bit(attempt, small):
    attempt.checkpoint(3)
    attempt.checkpoint(4)
    restored = attempt.publisher.restore(attempt.state())
    expected, found = small.as_arrays(attempt.state()), small.as_arrays(restored)
    assert [name for name in expected if expected[name].tobytes() != found[name].tobytes()] == []
    assert attempt.stories() == [("restored", "continues from the checkpoint of step 4")]
    assert attempt.on_disk() == []


@pytest.mark.parametrize(
    ("losses", "newest", "every", "kept"),
    [
        ({}, 2, None, set()),
        ({10: None}, 2, None, {10}),
        ({10: None, 20: None, 30: None}, 2, None, {20, 30}),
        ({10: 0.5, 20: 0.7, 30: 0.6, 40: None}, 1, None, {10, 40}),
        ({10: 0.5, 20: 0.5, 30: 0.9, 40: 0.8}, 1, None, {20, 40}),
        ({10: None, 20: None, 30: None, 40: None, 45: None}, 1, 20, {20, 40, 45}),
    ],
)
def test_newest_best_and_every_nth_checkpoint_are_kept(losses, newest, every, kept):
    assert kept_steps(losses, newest=newest, every=every) == kept


@given(
    losses=st.dictionaries(st.integers(1, 50), st.none() | st.floats(0, 9)),
    newest=st.integers(1, 5),
    every=st.none() | st.integers(1, 20),
)
def test_what_is_kept_of_any_run_is_what_the_policy_says_and_no_more(losses, newest, every):
    kept = kept_steps(losses, newest=newest, every=every)
    best = min((loss for loss in losses.values() if loss is not None), default=None)
    reasons = {
        step: [
            sum(other > step for other in losses) < newest,
            loss is not None and loss == best,
            every is not None and step % every == 0,
        ]
        for step, loss in losses.items()
    }
    assert kept <= {step for step, why in reasons.items() if any(why)}
    assert kept >= {step for step, why in reasons.items() if why[0] or why[2]}
    assert best is None or best in {losses[step] for step in kept}


def test_rows_follow_the_policy_as_the_run_goes_on(open_attempt):
    attempt = open_attempt(keep_checkpoints=1, keep_every_steps=4)
    for step, loss in enumerate([0.9, 0.2, 0.8, None, None, 0.3, None], start=1):
        attempt.checkpoint(step, loss)
    assert attempt.published() == [2, 4, 7]


class ForgetfulStore(LocalStore):
    """Says that it has stored a file, and keeps something else, as long as `lies`."""

    lies = False

    def put_file(self, path):
        blob = super().put_file(path)
        if self.lies:
            self._path(blob.sha256).write_bytes(b"something else")
        return blob


def test_checkpoint_that_the_store_does_not_give_back_is_not_published_and_replaces_nothing(open_attempt):
    attempt = open_attempt(ForgetfulStore, keep_checkpoints=1)
    attempt.checkpoint(1)
    attempt.store.lies = True
    attempt.checkpoint(2)
    assert attempt.published() == [1]
    [(kind, words)] = attempt.stories()
    assert kind == "checkpoint_waits"
    assert "is damaged in the store" in words
    attempt.store.lies = False
    attempt.handover.drain()
    assert attempt.published() == [2]


def test_training_goes_on_while_the_store_is_away_and_what_waited_is_published_between_steps(attempt):
    attempt.checkpoint(1)
    attempt.take_store_away()
    attempt.checkpoint(2)
    attempt.checkpoint(3)
    assert (attempt.published(), attempt.on_disk()) == ([1], [2, 3])
    attempt.bring_store_back()
    eventually(lambda: attempt.handover.poll() or attempt.published() == [2, 3])
    eventually(lambda: attempt.handover.poll() or attempt.on_disk() == [])
    [(kind, words)] = attempt.stories()
    assert kind == "checkpoint_waits"
    assert words.startswith("checkpoint of step 2 waits on this machine: the artifact store is away (")


def test_training_pauses_when_more_would_wait_than_may_and_continues_by_itself(open_attempt):
    attempt = open_attempt(unsaved_checkpoints=1, keep_checkpoints=3)
    attempt.take_store_away()
    attempt.checkpoint(1)
    with in_another_thread(lambda: attempt.checkpoint(2)) as outcome:
        heard = []
        eventually(lambda: heard.extend(attempt.lines()) or sum(line.say == "progress" for line in heard) > 3)
        assert outcome == []
        attempt.bring_store_back()
    kinds = [line.kind for line in heard if isinstance(line, Story)]
    assert kinds == ["checkpoint_waits", "paused"]
    assert any(line.message.startswith("paused: the artifact store is away") for line in heard if line.say == "story")
    assert ("continued", "continues: checkpoints are published again") in attempt.stories()
    attempt.handover.drain()
    assert (attempt.published(), attempt.on_disk()) == ([1, 2], [])


def test_run_that_may_keep_nothing_back_pauses_at_once(open_attempt):
    attempt = open_attempt(unsaved_checkpoints=0)
    attempt.take_store_away()
    with in_another_thread(lambda: attempt.checkpoint(1)):
        eventually(lambda: "paused" in [kind for kind, _ in attempt.stories()])
        attempt.bring_store_back()
    assert attempt.published() == [1]


def test_last_step_is_not_over_before_its_checkpoint_is_published(attempt):
    attempt.take_store_away()
    attempt.checkpoint(1)
    with in_another_thread(attempt.handover.drain) as outcome:
        eventually(lambda: "paused" in [kind for kind, _ in attempt.stories()])
        assert outcome == []
        attempt.bring_store_back()
    assert attempt.published() == [1]


def test_paused_training_leaves_when_it_is_told_to(open_attempt):
    attempt = open_attempt(unsaved_checkpoints=1)
    attempt.take_store_away()
    attempt.checkpoint(1)
    with in_another_thread(lambda: attempt.checkpoint(2)) as outcome:
        eventually(lambda: "paused" in [kind for kind, _ in attempt.stories()])
        attempt.child.leaving.set()
    assert isinstance(outcome[0], ToldToLeave)
    assert attempt.stories() == [("checkpoints_lost", "leaves without publishing the checkpoints of step 1, 2")]


def test_who_leaves_publishes_first_what_can_be_published(attempt):
    attempt.take_store_away()
    attempt.checkpoint(1)
    attempt.bring_store_back()
    attempt.child.leaving.set()
    attempt.checkpoint(2)
    with pytest.raises(ToldToLeave):
        attempt.handover.leave()
    assert attempt.published() == [1, 2]


class HangingStore(LocalStore):
    """Takes no file until it is released."""

    def __init__(self, root):
        super().__init__(root)
        self.released = threading.Event()

    def put_file(self, path):
        assert self.released.wait(PATIENCE_S)
        return super().put_file(path)


def test_store_that_hangs_holds_training_up_for_a_while_only(open_attempt, monkeypatch):
    monkeypatch.setattr(handover, "PATIENCE_S", 0.1)
    attempt = open_attempt(HangingStore)
    attempt.checkpoint(1)
    attempt.checkpoint(2)
    attempt.handover.poll()
    assert attempt.published() == []
    attempt.store.released.set()
    attempt.handover.drain()
    assert (attempt.published(), attempt.stories()) == ([1, 2], [])


def test_database_that_is_away_is_waited_for_like_the_store(attempt, monkeypatch):
    home, elsewhere = attempt.machine.settings.home_dir, attempt.folder / "no-home"
    attempt.machine.database.close()
    home.rename(elsewhere)
    attempt.checkpoint(1)
    [(kind, words)] = attempt.stories()
    assert kind == "checkpoint_waits"
    assert "the database is away" in words
    elsewhere.rename(home)
    attempt.handover.drain()
    assert attempt.published() == [1]


def test_attempt_that_has_lost_its_job_ends_at_once_and_publishes_nothing(attempt):
    with attempt.machine.writing() as session:
        session.execute(update(JobRecord).values(claim_id=new_id()))
    with pytest.raises(OwnershipLost):
        attempt.checkpoint(1)
    assert attempt.published() == []


def test_loss_of_the_job_is_noticed_between_steps_too(attempt):
    attempt.take_store_away()
    attempt.checkpoint(1)
    with attempt.machine.writing() as session:
        session.execute(update(JobRecord).values(claim_id=new_id()))
    attempt.bring_store_back()
    with pytest.raises(OwnershipLost):
        eventually(attempt.handover.poll)


@pytest.mark.parametrize("harm", ["changed", "lost"])
def test_saved_checkpoint_that_the_disk_has_damaged_is_dropped_and_the_next_one_published(attempt, harm):
    attempt.take_store_away()
    attempt.checkpoint(1)
    [victim] = attempt.scratch.glob("step-1-*/checkpoint.json")
    victim.write_bytes(b"{}") if harm == "changed" else victim.unlink()
    attempt.checkpoint(2)
    attempt.bring_store_back()
    attempt.handover.drain()
    assert (attempt.published(), attempt.on_disk()) == ([2], [])
    assert any(kind == "checkpoint_damaged" and "step 1 changed" in words for kind, words in attempt.stories())


def test_full_disk_ends_the_save_after_three_tries_and_leaves_what_was_there(tmp_path):
    (tmp_path / "step-1-1").mkdir()
    command = [sys.executable, FULL_DISK, tmp_path, "20000"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    assert "has no room for a checkpoint" in told["error"]
    assert "File too large" in told["error"]
    assert "free some space, or set TUNIX_RT_HOME" in told["error"]
    assert (told["stories"], told["left"], told["then"]) == (["disk_full", "disk_full"], ["step-1-1"], 3)


def test_disk_that_was_full_for_a_moment_costs_nothing(attempt, monkeypatch):
    free = iter([0, 0])
    usage = shutil.disk_usage

    def disk_usage(path):
        left = next(free, None)
        return usage(path) if left is None else Usage(left, left, left)

    attempt.checkpoint(1)
    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    attempt.checkpoint(2)
    assert attempt.published() == [1, 2]
    assert [kind for kind, _ in attempt.stories()] == ["disk_full", "disk_full"]


def test_save_asks_for_two_and_a_half_times_the_last_checkpoint(attempt, monkeypatch):
    last = attempt.save(1).size_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, int(2.5 * last) - 1))
    with pytest.raises(Unavailable, match=f"{int(2.5 * last):,} are needed"):
        attempt.save(2)
    assert attempt.on_disk() == [1]


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (errno.ENOSPC, Unavailable, "has no room for a checkpoint"),
        (errno.EDQUOT, Unavailable, "has no room for a checkpoint"),
        (errno.EIO, OSError, "Input/output error"),
    ],
)
def test_lack_of_room_can_be_mended_and_other_trouble_is_told_as_it_is(attempt, monkeypatch, number, error, words):
    def broken(_, folder, **__):
        folder.mkdir()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(saving.checkpoints, "save", broken)
    with pytest.raises(error, match=words):
        attempt.save(1)
    assert attempt.on_disk() == []


def test_damaged_checkpoint_is_passed_over_for_the_one_before(attempt):
    attempt.checkpoint(1)
    attempt.checkpoint(2)
    only_in_2 = {file.sha256 for file in attempt.manifest(2).files} - {f.sha256 for f in attempt.manifest(1).files}
    attempt.damage(only_in_2.pop())
    assert attempt.publisher.restore(attempt.state()) is not None
    kinds = [kind for kind, _ in attempt.stories()]
    assert kinds == ["restore_failed", "restored"]


def test_run_begins_anew_only_when_no_checkpoint_is_whole(attempt):
    attempt.checkpoint(1)
    attempt.damage(attempt.rows()[0].manifest_sha256)
    assert attempt.publisher.restore(attempt.state()) is None


def test_run_does_not_begin_anew_because_the_store_is_away(attempt):
    attempt.checkpoint(1)
    shutil.rmtree(attempt.disk / "artifacts")
    (attempt.disk / "artifacts").mkdir()
    (attempt.disk / "artifacts" / "incoming").touch()
    with pytest.raises(Unavailable, match="takes no files"):
        attempt.publisher.restore(attempt.state())
