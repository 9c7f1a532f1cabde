"""Real exec'd children that end in every way there is, under a real supervisor: the right state and story each time."""

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import JobRecord, LogRecord, MetricRecord, utc_now
from tunix_rt_common.errors import Unavailable
from tunix_rt_common.pipeline import Ending, NewJob
from tunix_rt_common.states import JobState
from tunix_rt_common.storage.local import LocalStore
from tunix_rt_common.supervisor import ChildJob, Supervisor
from tunix_rt_common.world import World

CHILDREN = Path(__file__).parent / "children"
NOISE = bytes(range(256)) * 4096 * 5
PATIENCE_S = 20.0


def evaluate_next(world, session, claim, result):
    return [NewJob("evaluate", payload=result, run_id=claim.run_id)]


class Worker:
    """A supervisor of `faulty` children on a machine with short times."""

    def __init__(self, machine, folder):
        self.machine, self.folder, self.stopping = machine, folder, threading.Event()
        self.store = LocalStore(folder / "store")
        self.ready, self.go = folder / "ready", folder / "go"

    def submit(self, way, **fields):
        payload = {"way": way, "ready": str(self.ready), "go": str(self.go)}
        return self.machine.submit_run(payload=payload, **fields)

    def handle(self, job_id, **settings):
        settings = self.machine.settings.model_copy(update=settings)
        world = World(settings, self.machine.database, self.store)
        jobs = {"train": ChildJob("faulty", evaluate_next)}
        Supervisor(world, jobs, self.stopping).work_once()
        return self.machine.job(job_id)

    def handle_while(self, job_id, meanwhile, **settings):
        """Handle, and do something once the child is there; the job, and the child's process id."""
        thread = threading.Thread(target=self.handle, args=(job_id,), kwargs=settings)
        thread.start()
        child = wait_for_child(self.ready)
        meanwhile()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the supervisor still waits for its child"
        return self.machine.job(job_id), child

    def story(self, job_id):
        return self.machine.events(job_id)[-1].message


@pytest.fixture
def worker(open_machine_on, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN), prepend=os.pathsep)
    machine = open_machine_on(tmp_path / "home", heartbeat_s=0.1, stop_grace_s=0.5, max_stalled_attempts=2)
    yield Worker(machine, tmp_path)
    machine.database.close()


def wait_for_child(ready):
    deadline = time.monotonic() + PATIENCE_S
    while not ready.exists():
        assert time.monotonic() < deadline, "the child has not begun"
        time.sleep(0.02)
    return int(ready.read_text())


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def freeze(machine, parent):
    """Stop a process between its transactions: SQLite has one lock for all, and a row on Postgres is locked as well."""
    parent.send_signal(signal.SIGSTOP)
    while not can_be_written(machine):
        parent.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        parent.send_signal(signal.SIGSTOP)


def can_be_written(machine):
    try:
        with machine.writing() as session:
            session.scalars(select(JobRecord).with_for_update(nowait=True)).all()
    except Unavailable:
        return False
    return True


def steal(machine, job_id):
    """Let the lease run out and another worker take the job."""
    with machine.writing() as session:
        held = session.get_one(JobRecord, job_id)
        held.lease_expires_at = held.created_at
        assert pipeline.expire(session, held, Ending(JobState.RETRY_WAIT, "the lease ran out"))
        assert pipeline.claim(session, job_id, "another", lease_s=60)


def test_child_that_succeeds_hands_its_result_to_the_next_stage(worker):
    job = worker.handle(worker.submit("succeed"), heartbeat_s=PATIENCE_S)
    assert (job.state, job.result, job.step) == ("succeeded", {"made": "it"}, 2)
    run = worker.machine.run_of(job.id)
    assert (run.state, run.stage, run.step, run.total_steps) == ("running", "evaluate", 2, 2)
    assert [(row.step, row.numbers) for row in worker.machine.all(MetricRecord)] == [(2, {"loss": 0.5})]
    assert [event.kind for event in worker.machine.events(job.id)] == ["state", "state", "halfway", "state"]


def test_users_error_fails_at_once_and_names_the_field(worker):
    job = worker.handle(worker.submit("blame_the_user"))
    assert (job.state, job.failure_class) == ("failed", "user_error")
    assert worker.machine.run_of(job.id).failure == "train.max_tokens: no row is short enough"


@pytest.mark.parametrize(
    ("way", "failure_class", "words"),
    [
        ("crash", "crash", "killed by signal 6"),
        ("exit_without_result", "crash", "exited with status 0"),
        ("report_half_a_line", "crash", "exited with status 0"),
        ("run_out_of_memory", "out_of_memory", "lower train.batch_size"),
    ],
)
def test_death_of_a_child_is_a_counted_attempt_and_not_the_end_of_the_worker(worker, way, failure_class, words):
    job = worker.handle(worker.submit(way))
    assert (job.state, job.failure_class, job.counted_attempts) == ("retry_wait", failure_class, 1)
    assert words in worker.story(job.id)


def test_stack_trace_of_a_bug_is_in_the_logs_and_not_in_the_users_story(worker):
    job = worker.handle(worker.submit("stumble"))
    assert (job.state, worker.story(job.id).count("Traceback")) == ("retry_wait", 0)
    assert "exited with status 1" in worker.story(job.id)
    assert any(b"Traceback" in row.chunk and b"a bug in the job" in row.chunk for row in worker.machine.all(LogRecord))


def test_child_that_always_crashes_at_one_step_ends_in_quarantine_with_advice(worker):
    job_id = worker.submit("crash")
    worker.handle(job_id)
    job = worker.handle(job_id)
    assert (job.state, job.attempt, job.step) == ("quarantined", 2, 3)
    assert "2 attempts in a row ended at step 3" in worker.machine.run_of(job_id).failure


def test_child_that_reports_nothing_is_killed_as_hung(worker):
    started = time.monotonic()
    job = worker.handle(worker.submit("hang"), progress_timeout_s=1.0)
    assert (job.state, job.failure_class) == ("retry_wait", "crash")
    assert "it reported nothing for too long" in worker.story(job.id)
    assert time.monotonic() - started < PATIENCE_S


def test_child_that_takes_longer_than_its_run_was_given_fails(worker):
    job = worker.handle(worker.submit("hang", timeout_s=1.0))
    assert (job.state, job.failure_class) == ("failed", "timeout")
    assert "took longer than the 1 s" in worker.machine.run_of(job.id).failure


def test_child_told_to_leave_goes_with_its_checkpoint_and_the_attempt_is_free(worker):
    job, child = worker.handle_while(worker.submit("leave_when_told"), worker.stopping.set, stop_grace_s=PATIENCE_S)
    assert (job.state, job.counted_attempts, job.failure_class) == ("queued", 0, "preempted")
    assert not is_alive(child)


def test_child_that_finishes_while_it_is_told_to_leave_has_succeeded(worker):
    job, _ = worker.handle_while(worker.submit("finish_when_told"), worker.stopping.set, stop_grace_s=PATIENCE_S)
    assert (job.state, job.result) == ("succeeded", {"made": "it in the last moment"})


def test_child_that_ignores_sigterm_is_killed_after_its_grace_time(worker):
    job, child = worker.handle_while(worker.submit("ignore_sigterm"), worker.stopping.set)
    assert (job.state, job.counted_attempts) == ("queued", 0)
    assert not is_alive(child)


@pytest.mark.parametrize("way", ["leave_when_told", "finish_when_told", "ignore_sigterm"])
def test_cancelled_child_ends_in_cancelled_whatever_it_does(worker, way):
    job_id = worker.submit(way)
    job, child = worker.handle_while(job_id, lambda: worker.machine.cancel(job_id))
    assert (job.state, job.result) == ("cancelled", None)
    assert worker.machine.run_of(job_id).state == "cancelled"
    assert not is_alive(child)


@pytest.mark.parametrize("way", ["leave_when_told", "ignore_sigterm"])
def test_paused_child_keeps_what_it_has_and_goes_on_when_resumed(worker, way):
    job_id = worker.submit(way)
    job, child = worker.handle_while(job_id, lambda: worker.machine.pause(job_id))
    assert (job.state, job.counted_attempts, worker.machine.run_of(job_id).state) == ("paused", 0, "paused")
    assert not is_alive(child)
    worker.machine.resume(job_id)
    assert worker.machine.job(job_id).state == "queued"


def test_child_that_finishes_while_it_is_paused_has_succeeded_and_the_next_stage_waits(worker):
    job_id = worker.submit("finish_when_told")
    job, _ = worker.handle_while(job_id, lambda: worker.machine.pause(job_id), stop_grace_s=PATIENCE_S)
    evaluate = worker.machine.all(JobRecord)[-1]
    assert (job.state, evaluate.kind, evaluate.state) == ("succeeded", "evaluate", "paused")


def test_child_whose_run_passes_its_deadline_fails_and_says_so(worker):
    job_id = worker.submit("leave_when_told", deadline_at=utc_now() + timedelta(seconds=1.5))
    job = worker.handle(job_id)
    assert (job.state, job.failure_class) == ("failed", "deadline")


def test_child_out_of_memory_twice_at_one_step_is_the_jobs_own_fault(worker):
    job_id = worker.submit("run_out_of_memory")
    assert worker.handle(job_id).state == "retry_wait"
    job = worker.handle(job_id)
    assert (job.state, job.failure_class, job.attempt) == ("failed", "out_of_memory", 2)


def test_child_whose_job_was_given_to_another_is_killed_and_writes_nothing(worker):
    job_id = worker.submit("leave_when_told")
    job, child = worker.handle_while(job_id, lambda: steal(worker.machine, job_id))
    assert (job.state, job.attempt, job.worker) == ("running", 2, "another")
    assert worker.machine.states(job_id) == ["queued", "running", "retry_wait", "running"]
    assert not is_alive(child)


def test_stale_childs_own_write_is_refused(worker):
    """The supervisor beats too rarely to notice; the child finds out by itself and leaves with code 75."""
    job_id = worker.submit("write_under_the_claim")

    def give_to_another():
        steal(worker.machine, job_id)
        worker.go.touch()

    job, _ = worker.handle_while(job_id, give_to_another, heartbeat_s=PATIENCE_S)
    assert (job.state, job.attempt, job.worker) == ("running", 2, "another")
    assert "checkpoint" not in [event.kind for event in worker.machine.events(job_id)]


def test_megabytes_of_binary_output_are_captured_and_archived_byte_for_byte(worker):
    job = worker.handle(worker.submit("make_noise"))
    rows = worker.machine.all(LogRecord)
    kept = {stream: b"".join(row.chunk for row in rows if row.stream == stream) for stream in ("stdout", "stderr")}
    assert kept == {"stdout": NOISE, "stderr": NOISE[::-1]}
    archived = worker.store.read(worker.machine.run_of(job.id).logs_sha256)
    assert archived == b"".join(row.chunk for row in rows)


def test_lines_that_are_no_reports_go_to_the_logs_and_stop_nobody(worker):
    job = worker.handle(worker.submit("report_garbage"))
    assert (job.state, job.step) == ("succeeded", 1)
    logged = b"".join(row.chunk for row in worker.machine.all(LogRecord))
    assert logged.count(b"(not a report line)") == 5


def test_big_report_lines_arrive_whole(worker):
    job = worker.handle(worker.submit("report_much"))
    assert job.result == {"numbers": list(range(200_000))}
    assert [len(event.message) for event in worker.machine.events(job.id) if event.kind == "big"] == [1_000_000]


@pytest.fixture
def parent_of(worker):
    """Starts a worker process of its own for a job; the process, and the process id of its child."""
    parents = []

    def start(job_id):
        environment = os.environ | worker.machine.settings.child_environment() | {"TUNIX_RT_HEARTBEAT_S": "0.1"}
        parents.append(subprocess.Popen([sys.executable, CHILDREN / "parent.py", str(job_id)], env=environment))
        return parents[-1], wait_for_child(worker.ready)

    yield start
    for parent in parents:
        parent.kill()
        parent.wait()


@pytest.mark.parametrize("way", ["leave_when_told", "freeze"])
def test_child_dies_with_its_killed_parent(worker, parent_of, way):
    job_id = worker.submit(way)
    parent, child = parent_of(job_id)
    parent.kill()
    parent.wait()
    time.sleep(0.1)
    deadline = time.monotonic() + 1.9
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(child)
    assert worker.machine.job(job_id).state == "running"


def test_worker_frozen_past_its_lease_finds_another_owner_and_writes_nothing(worker, parent_of):
    job_id = worker.submit("leave_when_told")
    parent, child = parent_of(job_id)
    freeze(worker.machine, parent)
    steal(worker.machine, job_id)
    told = worker.machine.events(job_id)[-1].id
    parent.send_signal(signal.SIGCONT)
    parent.wait(PATIENCE_S)
    assert not is_alive(child)
    job = worker.machine.job(job_id)
    assert (job.state, job.worker, worker.machine.events(job_id)[-1].id) == ("running", "another", told)
