"""What becomes of a message whose worker is slow, frozen or dead: E1, E2, E3, E8, E9.

None of this is a wish. It is what Celery on Redis does, measured, and what the job machine is built to outlive.
"""

import os
import signal
from contextlib import suppress

import pytest
from tests.celery.lab import Lab, Worker, is_alive, pins, until

EARLY = "docs/adr/0001: long work is acknowledged when it starts, and the database owns its retries"
SWEEPER = "docs/adr/0001: the sweeper rings again, because a message can be lost without a trace"
CLAIM = "docs/adr/0001: only a claim in the database starts work, because a message can come twice"
CHILD = "docs/adr/0002: the child watches its parent itself (lifeline and PR_SET_PDEATHSIG)"
FREEZES = 50


@pins("E1", revisit=f"{EARLY}; {CLAIM}")
def test_late_acknowledged_task_that_outlives_the_visibility_timeout_is_started_again(lab: Lab) -> None:
    lab.worker("two", "--concurrency=2")
    lab.send("late", "slow")
    starts = lab.wait_for("start", "slow", 2)
    lab.release("slow")
    lab.wait_for("end", "slow", 2)
    assert [start["redelivered"] for start in starts[:2]] == [False, True]
    assert starts[0]["pid"] != starts[1]["pid"], "one process cannot have run both at the same time"


@pytest.mark.long
@pins("E1", revisit=f"{EARLY}; {CLAIM}")
def test_late_acknowledged_task_is_started_once_per_visibility_timeout_as_long_as_there_is_room(tmp_path) -> None:
    with Lab(tmp_path / "lab", visibility_timeout=5) as lab:
        lab.worker("four", "--concurrency=4")
        lab.send("late", "slow")
        starts = lab.wait_for("start", "slow", 4)
        lab.release("slow")
        lab.wait_for("end", "slow", 4)
    assert [start["redelivered"] for start in starts] == [False, True, True, True]


@pins("E2", revisit=SWEEPER)
def test_early_acknowledged_message_is_gone_when_its_worker_is_killed(lab: Lab) -> None:
    worker = lab.worker("killed", "--concurrency=1")
    lab.send("early", "gone")
    lab.wait_for("start", "gone")
    until(lambda: lab.broker.unacknowledged() == 0, "the message to be acknowledged while its task runs")
    worker.kill_group()
    assert (lab.broker.waiting(), lab.broker.unacknowledged()) == (0, 0)
    assert not lab.notes("end", "gone")


@pins("E3", revisit=f"{EARLY}; docs/adr/0002: a pool process dies with its main process")
def test_late_acknowledged_message_of_a_killed_worker_goes_to_another(lab: Lab) -> None:
    worker = lab.worker("killed", "--concurrency=1")
    lab.send("late", "kept")
    first = lab.wait_for("start", "kept")[0]
    worker.kill_main()
    until(lambda: not is_alive(first["pid"]), "the pool process to die with its main process")
    assert lab.broker.unacknowledged() == 1
    lab.worker("other", "--concurrency=1")
    second = lab.wait_for("start", "kept", 2)[1]
    lab.release("kept")
    lab.wait_for("end", "kept")
    assert (first["redelivered"], second["redelivered"]) == (False, True)


@pins("E9", revisit=CHILD)
def test_child_of_a_killed_worker_lives_on_unless_it_watches_its_parent(lab: Lab) -> None:
    worker = lab.worker("killed", "--concurrency=1")
    lab.send("spawn", "parent")
    lab.wait_for("start", "parent")
    children = {kind: lab.notes("child", kind)[0]["child"] for kind in ("plain", "lifeline", "pdeathsig")}
    try:
        worker.kill_main()
        until(lambda: not is_alive(children["pdeathsig"]), "the kernel to kill the child")
        until(lambda: not is_alive(children["lifeline"]), "the child to see its input closed")
        assert is_alive(children["plain"]), "Celery now ends the children of its pool processes"
    finally:
        with suppress(ProcessLookupError):
            os.kill(children["plain"], signal.SIGKILL)


@pins("E8", revisit=SWEEPER)
def test_message_handed_to_a_frozen_worker_is_lost_with_it(lab: Lab) -> None:
    lose_a_message(lab, "lost")
    lab.worker("successor", "--concurrency=1")
    lab.send("mark", "next")
    lab.wait_for("mark", "next")
    assert not lab.notes("mark", "lost")


@pytest.mark.long
@pins("E8", revisit=SWEEPER)
def test_of_six_messages_handed_to_frozen_workers_six_are_lost(lab: Lab) -> None:
    for trial in range(6):
        lose_a_message(lab, f"lost-{trial}")
    lab.worker("successor", "--concurrency=1")
    lab.send("mark", "next")
    lab.wait_for("mark", "next")
    assert not [trial for trial in range(6) if lab.notes("mark", f"lost-{trial}")]


def lose_a_message(lab: Lab, name: str) -> None:
    """Publish while a worker is frozen in BRPOP, and kill it: Redis has handed the message out, nobody has it.

    BRPOP takes the message off the list, and only then does the worker write it into `unacked`. That the message is
    lost is therefore certain once Redis answers a frozen worker; the race is to publish before its BRPOP of one
    second ends, and is run until it is won.
    """
    worker = lab.worker(f"frozen-{name}", "--concurrency=1")
    lab.send("mark", f"before-{name}")
    lab.wait_for("mark", f"before-{name}")
    assert any(hand_to_frozen(lab, worker, name) for _ in range(FREEZES)), "Redis handed nothing to a frozen worker"
    worker.kill_group()
    assert (lab.broker.waiting(), lab.broker.unacknowledged()) == (0, 0), "the message is still there"


def hand_to_frozen(lab: Lab, worker: Worker, name: str) -> bool:
    """Whether Redis gave the message to the frozen worker; if not, it was withdrawn and the worker works again."""
    worker.freeze()
    if lab.broker.blocked_poppers():
        lab.send("mark", name)
        if not lab.broker.waiting():
            return True
        lab.broker.clear()
    worker.thaw()
    return False
