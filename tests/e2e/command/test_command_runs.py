import json
import signal

import pytest

from tunix_rt.client import Client
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.states import JobState


def test_only_given_options_are_sent_and_the_rest_is_the_servers(command, dataset):
    arguments = ("--dataset", dataset, "--base-model", "tiny", "--epochs", "2", "--lora-rank", "4", "--no-promote")
    run = command("runs", "create", *arguments, "--json").json
    spec = command("runs", "show", run["run_id"], "--json").json["spec"]
    assert spec["train"]["epochs"] == 2
    assert spec["train"]["lora"]["rank"] == 4
    assert spec["promote"] is False
    assert spec["train"]["batch_size"] == 32


def test_options_override_the_spec_file(command, dataset, tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"dataset": dataset, "base_model": "tiny", "train": {"seed": 1, "max_steps": 9}}))
    run = command("runs", "create", "--spec", str(path), "--seed", "2", "--json").json
    train = command("runs", "show", run["run_id"], "--json").json["spec"]["train"]
    assert (train["seed"], train["max_steps"]) == (2, 9)


def test_run_on_an_unknown_dataset_ends_with_2(command, dataset):
    outcome = command("runs", "create", "--dataset", "nothing", "--base-model", "tiny")
    assert outcome.code == 2
    assert "nothing" in outcome.err


def test_latest_is_the_newest_run(command, run_id):
    assert command("runs", "show", "latest", "--json").json["run_id"] == run_id


def test_latest_of_no_runs_says_how_to_start_one(command):
    outcome = command("runs", "show", "latest")
    assert outcome.code == 2
    assert "tunix-rt runs create" in outcome.err


def test_list_can_be_narrowed_to_a_state(command, run_id):
    assert [run["run_id"] for run in command("runs", "list", "--state", "queued", "--json").json] == [run_id]
    assert command("runs", "list", "--state", "failed", "--json").json == []


def test_watch_of_a_good_run_tells_story_verdict_and_version(command, platform, run_id):
    platform.finish_training(run_id)
    platform.finish_judging(run_id, "GO")
    outcome = command("runs", "watch", "latest")
    assert outcome.code == 0
    assert "train attempt 1 started" in outcome.err
    assert "GO" in outcome.out
    assert "sums@1" in outcome.out


def test_watch_as_json_is_one_document(command, platform, run_id):
    platform.finish_training(run_id)
    platform.finish_judging(run_id, "NO-GO")
    watched = command("runs", "watch", run_id, "--json")
    assert (watched.code, watched.json["state"], watched.json["decision"]) == (0, "succeeded", "NO-GO")


@pytest.mark.parametrize("state", [JobState.FAILED, JobState.QUARANTINED])
def test_watch_of_a_lost_run_ends_with_1_and_its_failure(command, platform, run_id, state):
    platform.end(platform.claim(run_id), Ending(state, "loss is not a number: lower the learning rate"))
    outcome = command("runs", "watch", run_id)
    assert outcome.code == 1
    assert "lower the learning rate" in outcome.err


def test_cancelled_run_ends_with_4(command, run_id):
    assert command("runs", "cancel", run_id, "--json").json["state"] == "cancelled"
    assert command("runs", "watch", run_id).code == 4
    assert command("runs", "cancel", run_id).code == 0


def test_follow_yields_every_event_and_metric_once(platform, run_id):
    with Client(platform.url) as client:
        updates = client.runs.follow(run_id, interval_s=0)
        first = next(updates)
        claim = platform.claim(run_id)
        platform.report(run_id, 1, 2, {"loss": 2.0})
        second = next(updates)
        platform.report(run_id, 2, 2, {"loss": 1.0})
        platform.end(claim, Ending(JobState.FAILED, "enough"))
        third = next(updates)
        assert list(updates) == []
    events = [event for update in (first, second, third) for event in update.events]
    assert len({event.event_id for event in events}) == len(events)
    assert [event.to_state for event in events] == ["queued", "running", "failed"]
    assert [metric.step for update in (first, second, third) for metric in update.metrics] == [1, 2]


def test_interrupted_watch_leaves_the_run_alone(command, spawned, platform, run_id):
    watching = spawned("runs", "watch", run_id)
    assert "train queued" in watching.stderr.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)
    assert (watching.returncode, out) == (130, "")
    assert f"tunix-rt runs watch {run_id}" in err
    assert command("runs", "show", run_id, "--json").json["state"] == "queued"


def test_logs_are_printed_as_written_but_harmless(command, platform, run_id):
    claim = platform.claim(run_id)
    platform.write_log(claim, b"step 1\rstep 2\n\x1b[2Jdone\n")
    assert command("runs", "logs", run_id).out == "step 1\nstep 2\n\\x1b[2Jdone\n"


def test_followed_logs_end_with_the_run(command, spawned, platform, run_id):
    claim = platform.claim(run_id)
    platform.write_log(claim, b"first\n")
    following = spawned("runs", "logs", run_id, "--follow")
    assert following.stdout.readline() == "first\n"
    platform.write_log(claim, b"last\n")
    platform.end(claim, Ending(JobState.FAILED, "enough"))
    assert following.communicate(timeout=30)[0] == "last\n"
