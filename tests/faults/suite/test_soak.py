"""Many runs under random faults: none lost, none completed twice, and every weight as without faults."""

import os
import time
from uuid import UUID, uuid4

import pytest
from tests.faults.suite.randomfaults import RandomFaults
from tests.faults.suite.scene import Run, Scene, real_spec
from tests.faults.suite.test_worker_faults import working_trainer

from tunix_rt_common.db.models import CheckpointRecord

SEED = int(os.environ.get("TUNIX_RT_TEST_SEED", "11"))
"""Of the faults that strike; the same seed draws the same ones, though not at the same moments of the runs."""
FAULT_EVERY_S, FAULTS_PER_RUN = 2.0, 1.25
"""The shortest mean pause between faults, and how many strike in the time of an undisturbed run where that is longer:
struck as often where processes start slowly, runs would not get anywhere."""
UNDER_WAY = 8
ASK_PATIENCE_S = 3.0
REAL_SEED, REAL_STEPS = 5, 20


def soak(scene: Scene, specs: list[dict], patience_s: float) -> RandomFaults:
    """Have all of these accepted, a few at a time, while faults strike until the last one is about to end."""
    faults = RandomFaults(scene.cluster, SEED, max(FAULT_EVERY_S, undisturbed_s(scene) / FAULTS_PER_RUN))
    waiting = [(spec, uuid4().hex) for spec in specs]
    deadline = time.monotonic() + patience_s
    while waiting or len(open_runs(scene)) > 2:
        assert time.monotonic() < deadline, f"{len(waiting)} runs wait to be accepted\n{scene.cluster.last_words()}"
        faults.go_on()
        scene.cluster.tend()
        if waiting and len(open_runs(scene)) < UNDER_WAY:
            submit_first(scene, waiting)
        time.sleep(0.1)
    scene.cluster.heal()
    scene.fault_is_over()
    return faults


def undisturbed_s(scene: Scene) -> float:
    """How long a light run takes here and now without faults."""
    started = time.monotonic()
    scene.wait_for_end(scene.start())
    return time.monotonic() - started


def open_runs(scene: Scene) -> list[str]:
    """Those accepted and not ended; as many as ever while the database is away."""
    from tunix_rt_common.errors import Unavailable

    try:
        return [run.run_id for run in scene.runs if not scene.cluster.all_ended([run.run_id])]
    except Unavailable:
        return [run.run_id for run in scene.runs]


def submit_first(scene: Scene, waiting: list[tuple[dict, str]]) -> None:
    """Ask once for the first; it stays the first until it is accepted, with the same key."""
    spec, key = waiting[0]
    run_id = scene.cluster.try_submit(spec, key, patience_s=ASK_PATIENCE_S)
    if run_id:
        scene.add(Run.of(run_id, spec))
        waiting.pop(0)


def light_specs(scene: Scene, number: int) -> list[dict]:
    """Every fourth is judged."""
    return [scene.spec(20, judged=index % 4 == 0) for index in range(number)]


@pytest.mark.timeout(1200)
def test_light_runs_under_random_faults(scene):
    soak(scene, light_specs(scene, 48), patience_s=900)
    scene.wait_for_end(patience_s=300)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_many_light_runs_under_random_faults(scene):
    soak(scene, light_specs(scene, 200), patience_s=3000)
    scene.wait_for_end(patience_s=300)


@pytest.fixture(scope="module")
def undisturbed(cluster):
    """The digest of the real training without faults."""
    cluster.heal()
    run_id = cluster.submit(real_spec(REAL_SEED, REAL_STEPS))
    cluster.wait(lambda: cluster.all_ended([run_id]), "an undisturbed real run", patience_s=300)
    return cluster.jobs(run_id)[0].result["manifest_sha256"]


@pytest.mark.fault("F1 F24")
@pytest.mark.timeout(900)
def test_real_training_killed_twice_with_rubbish_on_its_disk_ends_with_the_very_same_weights(scene, undisturbed):
    run = scene.start_spec(real_spec(REAL_SEED, REAL_STEPS))
    run.model_sha256 = undisturbed
    for step in (5, 10):
        scene.wait_for_checkpoint(run, step)
        working_trainer(scene).kill_jobs()
        leave_rubbish(scene, run)
    scene.fault_is_over()
    scene.wait_for_end(patience_s=300)
    assert len(scene.attempts(run)) == 3


def leave_rubbish(scene: Scene, run: Run) -> None:
    """What a torn save may leave: half a checkpoint in the folders of this attempt and of the next ones."""
    newest = max(row.step for row in scene.cluster.rows(CheckpointRecord, CheckpointRecord.run_id == UUID(run.run_id)))
    for fence in range(1, 5):
        folder = scene.cluster.home / "scratch" / "runs" / run.run_id / f"fence-{fence}" / f"step-{newest + 5}"
        (folder / "state").mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.json").write_bytes(b"{")


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_real_trainings_under_random_faults(scene, undisturbed):
    soak(scene, [real_spec(REAL_SEED, REAL_STEPS)] * 12, patience_s=2400)
    for run in scene.runs:
        run.model_sha256 = undisturbed
    scene.wait_for_end(patience_s=600)
