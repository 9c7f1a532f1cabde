"""What a pool can and cannot do: E5, E6."""

from tests.celery.lab import Lab, pins, until

SPAWN = "worker_pool_start_method='spawn': pool processes that are no forks of a process with threads"
SOLO = "docs/adr/0002 and the choice of pool: a solo worker that works hears nothing, neither pings nor revokes"
PING_S = 1.0


@pins("E5", revisit=SPAWN)
def test_pool_process_is_a_fresh_interpreter_with_spawn_and_a_fork_without(lab: Lab) -> None:
    spawning = lab.start("spawning", "--concurrency=1", "--queues=spawned", worker_pool_start_method="spawn")
    lab.worker("forking", "--concurrency=1", "--queues=forked")
    spawning.wait_until_ready()
    for queue in ("spawned", "forked"):
        lab.send("mark", queue, queue=queue)
    assert lab.wait_for("mark", "spawned")[0]["fresh_interpreter"] is True
    assert lab.wait_for("mark", "forked")[0]["fresh_interpreter"] is False


@pins("E6", revisit=SOLO)
def test_busy_solo_worker_hears_no_ping_and_a_busy_prefork_worker_does(lab: Lab) -> None:
    solo = lab.start("solo", "--pool=solo", "--queues=solo")
    prefork = lab.worker("prefork", "--concurrency=1", "--queues=prefork")
    solo.wait_until_ready()
    until(lambda: answers(lab) == {solo.name, prefork.name}, "both idle workers to answer")
    for queue in ("solo", "prefork"):
        lab.send("early", queue, queue=queue)
        lab.wait_for("start", queue)
    assert answers(lab) == {prefork.name}


@pins("E6", revisit=SOLO)
def test_solo_worker_that_is_asked_to_leave_ends_its_task_first(lab: Lab) -> None:
    worker = lab.worker("solo", "--pool=solo")
    lab.send("early", "last")
    lab.wait_for("start", "last")
    worker.ask_to_leave()
    worker.wait_until_it_says("Warm shutdown")
    assert worker.is_alive()
    lab.release("last")
    assert worker.wait() == 0
    assert lab.notes("end", "last")


def answers(lab: Lab) -> set[str]:
    """The workers that answer a ping in time."""
    return {name for answer in lab.app.control.ping(timeout=PING_S) for name in answer}
