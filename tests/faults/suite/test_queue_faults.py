"""A Redis that is empty, dead, silent, full, locked, or older than the truth; and messages that nobody should send."""

import json
import pickle
import shutil
import time
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.faults.proxy import LPUSH
from tests.faults.suite.cluster import SECRET
from tests.faults.suite.scene import LONG, Scene, in_long_form

from tunix_rt_common.messages import TrainJob
from tunix_rt_common.queue import open_queue

PREFIX = "tunix-rt:"
ACCEPTED_WITHIN_S = 5.0


def training(scene: Scene, run) -> UUID:
    return scene.cluster.jobs(run.run_id)[0].id


@pytest.mark.fault("F9")
def test_ten_doubled_late_and_reordered_messages_train_once(scene):
    runs = [scene.start(), scene.start()]
    queue = open_queue(scene.cluster.redis.url, SECRET)
    messages = [TrainJob(job_id=training(scene, run)) for run in reversed(runs)]
    for message in messages * 5:
        queue.publish(message)
    scene.wait_for_end()
    for message in messages * 5:
        queue.publish(message)
    scene.cluster.wait(lambda: not scene.cluster.redis_client.llen(f"{PREFIX}train"), "an empty queue")
    scene.fault_is_over()
    assert all(len(scene.attempts(run)) == 1 for run in runs)


@pytest.mark.fault("F10")
def test_lost_message_is_sent_again(scene):
    for trainer in scene.cluster.trainers:
        trainer.stop()
    run = scene.start()
    scene.cluster.wait(lambda: scene.cluster.redis_client.llen(f"{PREFIX}train"), "the message")
    scene.cluster.redis_client.flushall()
    for trainer in scene.cluster.trainers:
        trainer.start()
    scene.fault_is_over()
    scene.wait_for_end(run)


@pytest.mark.fault("F11")
def test_flushed_redis_loses_nothing_at_any_moment(scene):
    for _ in range(4):
        scene.start(judged=True)
    while not scene.cluster.all_ended([run.run_id for run in scene.runs]):
        scene.cluster.redis_client.flushall()
        scene.cluster.tend()
        scene.fault_is_over()
        time.sleep(0.3)
    scene.wait_for_end()


@pytest.mark.fault("F11")
@pytest.mark.parametrize("memory", [in_long_form("all"), "nothing", "something older"])
def test_killed_redis_that_comes_back_with(scene, memory):
    redis = scene.cluster.redis
    older = snapshot(redis) if memory == "something older" else None
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    waiting = [scene.start(judged=True) for _ in range(2)]
    redis.kill()
    if memory != "all":
        shutil.rmtree(redis.folder / "data")
    if memory == "nothing":
        (redis.folder / "data").mkdir()
    if older:
        older.rename(redis.folder / "data")
    redis.start()
    scene.fault_is_over()
    scene.wait_for_end(run, *waiting)
    assert len(scene.attempts(run)) == 1


def snapshot(redis) -> Path:
    """What Redis holds now, with one message in it that was carried out long ago."""
    redis.stop()
    kept = redis.folder / "older"
    shutil.copytree(redis.folder / "data", kept)
    redis.start()
    return kept


@pytest.mark.fault("F12")
def test_run_is_accepted_at_once_while_redis_swallows_everything(scene):
    running = scene.start(LONG)
    scene.wait_for_checkpoint(running)
    scene.cluster.redis_proxy.black_hole()
    asked = time.monotonic()
    scene.start()
    assert time.monotonic() - asked < ACCEPTED_WITHIN_S
    scene.cluster.wait(lambda: scene.cluster.jobs(running.run_id)[0].state == "succeeded", "the end of the training")
    scene.cluster.redis_proxy.heal()
    scene.fault_is_over()
    scene.wait_for_end()
    assert len(scene.attempts(running)) == 1


@pytest.mark.fault("F12")
def test_run_is_accepted_at_once_while_redis_is_down(scene):
    scene.cluster.redis.kill()
    asked = time.monotonic()
    scene.start()
    assert time.monotonic() - asked < ACCEPTED_WITHIN_S
    scene.cluster.redis.start()
    scene.fault_is_over()
    scene.wait_for_end()


@pytest.mark.fault("F12")
def test_connections_to_redis_reset_again_and_again(scene):
    runs = [scene.start(LONG) for _ in range(2)]
    for _ in range(6):
        scene.cluster.redis_proxy.reset_all()
        time.sleep(0.5)
    scene.cluster.redis_proxy.cut_after(LPUSH, times=3)
    runs.append(scene.start())
    scene.fault_is_over()
    scene.wait_for_end()
    assert all(len(scene.attempts(run)) == 1 for run in runs)


@pytest.mark.fault("F13")
@pytest.mark.parametrize(
    ("setting", "wrong", "right"),
    [("maxmemory", "1", "0"), in_long_form("maxclients", "1", "10000"), in_long_form("requirepass", "x", "")],
)
def test_redis_that_refuses_for_its(scene, setting, wrong, right):
    client = scene.cluster.redis_client
    client.config_set(setting, wrong)
    scene.cluster.redis_proxy.reset_all()
    run = scene.start()
    time.sleep(2)
    client.config_set(setting, right)
    scene.fault_is_over()
    scene.wait_for_end(run)


@pytest.mark.fault("F26")
def test_messages_that_nobody_should_send_are_dropped_and_work_goes_on(scene):
    client = scene.cluster.redis_client
    unsigned = {"body": json.dumps({"kind": "train", "job_id": str(uuid4())}), "signature": "0"}
    for poison in (
        b"{not json",
        b"\xff\xfe",
        b"[]",
        pickle.dumps({"a": 1}),
        b"x" * 5_000_000,
        json.dumps(unsigned).encode(),
    ):
        client.lpush(f"{PREFIX}train", poison)
    open_queue(scene.cluster.redis.url, SECRET).publish(TrainJob(job_id=uuid4()))
    scene.start()
    scene.fault_is_over()
    scene.wait_for_end()
