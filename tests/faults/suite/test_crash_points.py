"""Every named place at which a process can die between two writes: it dies there once, and every run ends correctly.

The short form arms several points at once, with a run for each; the long form takes each point by itself.
"""

import signal

import pytest
from tests.faults.suite.crashing import POINTS, Point
from tests.faults.suite.scene import LONG, Run, Scene, in_long_form

STEPS = 18
CLAIMED = "worker: job claimed, no child yet"
PUBLISHED = "child: checkpoint committed"
CANCELLED = "api: cancel written, not committed"
PREEMPTED = "worker: preemption decided, not written"
ON_THEIR_OWN = {CANCELLED, PREEMPTED}
"""Those that a run does not come by unless somebody asks for it."""
GROUP_SIZE = 4
SHARED = [point for point in POINTS if point.name not in ON_THEIR_OWN]
GROUPS = [SHARED[first :: -(-len(SHARED) // GROUP_SIZE)] for first in range(-(-len(SHARED) // GROUP_SIZE))]


def arm(scene: Scene, points: list[Point]) -> None:
    """Arm these, and what has to happen first."""
    for point in points:
        if point.name.endswith("a restore"):
            scene.cluster.arm(PUBLISHED)
        if point.name.startswith("sweeper: attempt"):
            scene.cluster.arm(CLAIMED)
        scene.cluster.arm(point.name)


def wait_until_all_have_struck(scene: Scene, points: list[Point]) -> None:
    for point in points:
        scene.cluster.wait(lambda point=point: scene.cluster.has_struck(point.name), f"a process at {point.name!r}")
    scene.passed += [point.name for point in points]
    scene.fault_is_over()


@pytest.mark.fault("F5-F8")
@pytest.mark.parametrize("points", GROUPS, ids=range(1, len(GROUPS) + 1))
def test_crash_at(scene, points):
    arm(scene, points)
    judged = any(point.name.startswith("evaluator") for point in points)
    for _ in points:
        scene.start(STEPS, judged=judged)
    wait_until_all_have_struck(scene, points)
    scene.wait_for_end()


@pytest.mark.long
@pytest.mark.fault("F5-F8")
@pytest.mark.parametrize("point", SHARED, ids=lambda point: point.name)
def test_crash_alone_at(scene, point):
    arm(scene, [point])
    scene.start(STEPS, judged=point.name.startswith("evaluator"))
    wait_until_all_have_struck(scene, [point])
    scene.wait_for_end()


@pytest.mark.fault("F5-F8")
def test_crash_of_the_api_that_has_not_committed_a_cancel(scene):
    scene.cluster.arm(CANCELLED)
    run = scene.start(LONG * 4)
    run.state = "cancelled"
    scene.wait_until_running(run)
    cancel_until_heard(scene, run)
    wait_until_all_have_struck(scene, [point for point in POINTS if point.name == CANCELLED])
    scene.wait_for_end()


def cancel_until_heard(scene: Scene, run: Run) -> None:
    def heard() -> bool:
        answer = scene.cluster.ask("POST", f"/api/v1/runs/{run.run_id}/cancel")
        return answer is not None and answer.status == 202

    scene.cluster.wait(heard, "an API that hears of a cancel")


@pytest.mark.fault("F5-F8")
def test_crash_of_a_worker_that_is_told_to_leave_and_has_not_written_it(scene):
    scene.cluster.arm(PREEMPTED)
    run = scene.start(LONG * 4)
    scene.wait_until_running(run)
    for trainer in scene.cluster.trainers:
        trainer.stop()
        trainer.start()
    wait_until_all_have_struck(scene, [point for point in POINTS if point.name == PREEMPTED])
    scene.wait_for_end()


@pytest.mark.fault("F3")
@pytest.mark.parametrize(
    "name",
    [
        "worker: child done, result not looked at",
        "child: manifest stored, no row",
        in_long_form("worker: result in hand, not advanced"),
        in_long_form("child: before a checkpoint"),
    ],
)
def test_zombie_that_wakes_up_at(scene, name):
    """It stops for longer than its lease just before it writes; by then the job is another's."""
    scene.cluster.arm(name, number=signal.SIGSTOP)
    run = scene.start(STEPS)
    scene.cluster.wait(lambda: scene.cluster.has_struck(name), f"a process at {name!r}")
    if name.startswith("child"):
        freeze_its_worker(scene)
    scene.wait_until_running(run, attempt=2)
    for trainer in scene.cluster.trainers:
        trainer.thaw()
    scene.fault_is_over()
    scene.wait_for_end()


def freeze_its_worker(scene: Scene) -> None:
    """The heartbeats of a stopped child's worker would keep the lease."""
    for trainer in scene.cluster.trainers:
        if trainer.jobs():
            trainer.freeze(trainer.pool())
