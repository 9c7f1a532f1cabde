"""What the pipeline survives: killed children, a killed server, a cancel in mid-run. Real processes, real signals."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from tests.e2e.bars.cluster import Cluster
from tests.e2e.bars.server import PATIENCE_S, Up, build_sums, child_pids, small_run, start_up, wait_for_end

from tunix_rt.client import Client
from tunix_rt.types import RunDetail

KILLS = 5


def wait_for_state(client: Client, run_id: str, state: str) -> RunDetail:
    deadline = time.monotonic() + PATIENCE_S
    while (run := client.runs.get(run_id)).state != state:
        assert time.monotonic() < deadline, f"still {run.state}"
        time.sleep(0.1)
    return run


def wait_for_step(client: Client, run_id: str, step: int, attempt: int = 1) -> RunDetail:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        run = client.runs.get(run_id)
        assert not run.finished, f"ended {run.state} before step {step}: {run.failure}"
        assert time.monotonic() < deadline, f"no step {step} in time, but {run.step}"
        if run.jobs[0].attempt >= attempt and run.state == "running" and run.step >= step:
            return run
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_training_killed_five_times_ends_with_the_very_same_weights(up: Up):
    generator = random.Random(11)
    with up.client() as client:
        build_sums(client)
        undisturbed = wait_for_end(client, client.runs.create(small_run(200)).run_id)
        run_id = client.runs.create(small_run(200, model_name="killed")).run_id
        for attempt in range(1, KILLS + 1):
            floor = max((checkpoint.step for checkpoint in client.runs.get(run_id).checkpoints), default=0)
            wait_for_step(client, run_id, generator.randint(floor + 1, min(floor + 60, 190)), attempt)
            [pid] = child_pids("tunix_rt_trainer.job", up.home)
            os.kill(pid, signal.SIGKILL)
        killed = wait_for_end(client, run_id)
        events = list(client.runs.events(run_id))
    assert (undisturbed.state, killed.state) == ("succeeded", "succeeded")
    assert killed.training["manifest_sha256"] == undisturbed.training["manifest_sha256"]
    assert killed.jobs[0].attempt == KILLS + 1
    started = [event.attempt for event in events if event.stage == "train" and event.to_state == "running"]
    assert started == list(range(1, KILLS + 2))
    assert sum("killed by signal 9" in event.message for event in events) == KILLS


@pytest.mark.timeout(300)
def test_a_killed_server_finishes_after_its_next_start_what_it_had_accepted(tmp_path: Path):
    server = start_up(tmp_path / "home")
    with server.client() as client:
        build_sums(client)
        running = client.runs.create(small_run(60, checkpoint_every=10)).run_id
        waiting = client.runs.create(small_run(10, model_name="second")).run_id
        wait_for_step(client, running, 15)
    server.kill_tree()
    deadline = time.monotonic() + 5
    while child_pids("tunix_rt_trainer.job", server.home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert child_pids("tunix_rt_trainer.job", server.home) == [], "the child outlived its server"
    server = start_up(tmp_path / "home")
    try:
        with server.client() as client:
            assert wait_for_end(client, running).state == "succeeded"
            assert wait_for_end(client, waiting).state == "succeeded"
            told = [event.message for event in client.runs.events(running)]
            assert any("continues from the checkpoint" in message for message in told)
    finally:
        server.process.terminate()
        server.process.wait(30)


@pytest.mark.timeout(300)
def test_cancel_takes_effect_within_ten_seconds_and_keeps_a_checkpoint(world: Up | Cluster):
    with world.client() as client:
        build_sums(client)
        run_id = client.runs.create(small_run(5000, checkpoint_every=1000)).run_id
        wait_for_step(client, run_id, 5)
        asked = time.monotonic()
        client.runs.cancel(run_id)
        run = wait_for_end(client, run_id)
        took_s = time.monotonic() - asked
    assert (run.state, run.model_version) == ("cancelled", None)
    assert took_s < 10
    assert run.checkpoints[-1].step >= 5


@pytest.mark.timeout(300)
def test_a_paused_run_goes_on_from_its_checkpoint_when_it_is_resumed(cluster: Cluster):
    with cluster.client() as client:
        build_sums(client)
        run_id = client.runs.create(small_run(60, checkpoint_every=1000)).run_id
        wait_for_step(client, run_id, 5)
        client.runs.pause(run_id)
        paused = wait_for_state(client, run_id, "paused")
        assert paused.checkpoints[-1].step >= 5
        client.runs.resume(run_id)
        run = wait_for_end(client, run_id)
        told = [event.message for event in client.runs.events(run_id)]
    assert (run.state, run.jobs[0].attempt) == ("succeeded", 2)
    assert any("continues from the checkpoint" in message for message in told)


@pytest.mark.timeout(300)
def test_a_server_told_to_stop_keeps_a_checkpoint_and_continues_from_it(tmp_path: Path):
    server = start_up(tmp_path / "home")
    with server.client() as client:
        build_sums(client)
        run_id = client.runs.create(small_run(60, checkpoint_every=1000)).run_id
        wait_for_step(client, run_id, 5)
    server.process.terminate()
    assert server.process.wait(30) == 0
    server = start_up(tmp_path / "home")
    try:
        with server.client() as client:
            run = wait_for_end(client, run_id)
            told = [event.message for event in client.runs.events(run_id)]
        assert (run.state, run.jobs[0].attempt) == ("succeeded", 2)
        assert any("preempted" in message for message in told)
        assert any("continues from the checkpoint" in message for message in told)
    finally:
        server.process.terminate()
        server.process.wait(30)
