"""What becomes of workers and messages when Redis is killed: E4, E7, E10."""

from pathlib import Path

import pytest
from tests.celery.lab import Lab, pins, until

RECONNECT = "the external watchdog of workers: those of this version come back by themselves"
BLIP = "worker_cancel_long_running_tasks_on_connection_loss=False: losing Redis must not end or repeat work"
EARLY = "acks_late=False for every task: what is acknowledged late ends its worker, or is done twice, with Redis"
MEMORY = "docs/adr/0001: Redis may be emptied at any time; an append-only file keeps less work for the sweeper"


@pins("E4", revisit=RECONNECT)
def test_idle_workers_of_every_pool_come_back_after_redis_was_killed(lab: Lab) -> None:
    pools = ("prefork", "solo", "threads")
    workers = [lab.start(pool, f"--pool={pool}", "--concurrency=1", f"--queues={pool}") for pool in pools]
    for worker in workers:
        worker.wait_until_ready()
    lab.broker.kill()
    for worker in workers:
        worker.wait_until_it_says("Connection to broker lost")
    lab.broker.start()
    for pool in pools:
        lab.send("mark", f"after-{pool}", queue=pool)
    for pool in pools:
        lab.wait_for("mark", f"after-{pool}")


@pins("E7", revisit=BLIP)
def test_task_that_runs_while_redis_is_killed_ends_once_and_is_acknowledged(tmp_path: Path) -> None:
    with Lab(tmp_path / "lab", visibility_timeout=600) as lab:
        worker = lab.worker("busy", "--concurrency=1")
        lab.send("late", "through")
        lab.wait_for("start", "through")
        lab.broker.kill()
        worker.wait_until_it_says("Connection to broker lost")
        lab.broker.start()
        worker.wait_until_it_says("Connected to redis", 2)
        lab.release("through")
        lab.wait_for("end", "through")
        until(lambda: not lab.broker.unacknowledged(), "the message to be acknowledged over the new connection")
        assert lab.broker.waiting() == 0
        assert len(lab.notes("start", "through")) == 1


@pins("E7, with room for more work", revisit=EARLY)
def test_worker_with_room_that_holds_an_unacknowledged_message_does_not_survive_the_loss_of_redis(
    tmp_path: Path,
) -> None:
    with Lab(tmp_path / "lab", visibility_timeout=600) as lab:
        worker = lab.worker("busy", "--concurrency=2")
        lab.send("late", "through")
        lab.wait_for("start", "through")
        lab.broker.kill()
        worker.wait_until_it_says("Unrecoverable error")
        lab.broker.start()
        lab.release("through")
        assert worker.wait() != 0
        assert lab.broker.unacknowledged() == 1, "the message would be done again, though its task has ended"
        assert lab.notes("end", "through")


@pins("E7, acknowledged early", revisit=EARLY)
def test_worker_with_room_that_acknowledges_early_takes_more_work_after_redis_was_killed(lab: Lab) -> None:
    worker = lab.worker("busy", "--concurrency=2")
    lab.send("early", "through")
    lab.wait_for("start", "through")
    until(lambda: not lab.broker.unacknowledged(), "the message to be acknowledged")
    lab.broker.kill()
    worker.wait_until_it_says("Connection to broker lost")
    lab.broker.start()
    lab.send("mark", "next")
    lab.wait_for("mark", "next")
    lab.release("through")
    lab.wait_for("end", "through")


@pins("E10", revisit=MEMORY)
@pytest.mark.parametrize(("append_only", "left"), [(True, 1), (False, 0)])
def test_redis_that_is_killed_keeps_its_messages_only_in_an_append_only_file(
    tmp_path: Path, append_only: bool, left: int
) -> None:
    with Lab(tmp_path / "lab", append_only=append_only) as lab:
        lab.send("mark", "waiting")
        assert lab.broker.waiting() == 1
        lab.broker.kill()
        lab.broker.start()
        assert lab.broker.waiting() == left
