"""Workers and children that are killed, stopped, told to leave, or away."""

import resource

import pytest
from tests.faults.suite.scene import LONG, Scene, in_long_form
from tests.faults.suite.services import Service

FAULTY_LIMIT_BYTES = 8


def working_trainer(scene: Scene) -> Service:
    """The trainer that has a child; there is one run."""
    scene.cluster.wait(lambda: any(trainer.jobs() for trainer in scene.cluster.trainers), "a child")
    return next(trainer for trainer in scene.cluster.trainers if trainer.jobs())


@pytest.mark.fault("F1")
def test_killed_child_is_followed_by_one_that_continues_from_the_last_checkpoint(scene):
    run = scene.start(LONG)
    for step in (10, 30, 50):
        scene.wait_for_checkpoint(run, step)
        working_trainer(scene).kill_jobs()
        scene.fault_is_over()
    scene.wait_for_end()
    assert len(scene.attempts(run)) == 4
    restored = [event.detail["step"] for event in scene.told(run, "restored")]
    assert len(restored) == 3
    assert all(step >= killed_after for step, killed_after in zip(restored, (10, 30, 50), strict=True))


@pytest.mark.fault("F2")
@pytest.mark.parametrize("part", [in_long_form("pool"), "main", "all"])
def test_killed_worker_takes_its_child_along_and_another_one_continues(scene, part):
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    trainer = working_trainer(scene)
    children = trainer.jobs()
    getattr(trainer, f"kill_{part}")()
    scene.fault_is_over()
    scene.cluster.wait(lambda: not set(children) & set(trainer.jobs()), "the end of the orphan", patience_s=10)
    scene.wait_for_end()
    assert len(scene.attempts(run)) == 2


@pytest.mark.fault("F3")
def test_worker_and_child_frozen_past_the_lease_find_another_owner_and_write_nothing(scene):
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    trainer = working_trainer(scene)
    zombies = trainer.freeze()
    scene.wait_until_running(run, attempt=2)
    trainer.thaw()
    scene.fault_is_over()
    scene.wait_for_end()
    scene.cluster.wait(lambda: not set(zombies) & set(trainer.jobs()), "the end of the zombie", patience_s=20)
    assert len(scene.attempts(run)) == 2


@pytest.mark.fault("F3")
def test_child_frozen_alone_is_carried_by_its_worker_and_goes_on_where_it_was(scene):
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    trainer = working_trainer(scene)
    frozen = trainer.freeze(trainer.jobs())
    lease = scene.cluster.jobs(run.run_id)[0].lease_expires_at
    scene.cluster.wait(lambda: scene.cluster.jobs(run.run_id)[0].lease_expires_at > lease, "another heartbeat")
    trainer.thaw()
    scene.fault_is_over()
    scene.wait_for_end()
    assert frozen
    assert len(scene.attempts(run)) == 1


@pytest.mark.fault("F4")
def test_child_of_a_frozen_supervisor_is_fenced_by_the_next_owner(scene):
    run = scene.start(LONG * 2)
    scene.wait_for_checkpoint(run)
    trainer = working_trainer(scene)
    trainer.freeze([pid for pid in trainer.family() if pid not in set(trainer.jobs())])
    scene.wait_until_running(run, attempt=2)
    trainer.thaw()
    scene.fault_is_over()
    scene.wait_for_end()
    assert len(scene.attempts(run)) == 2


@pytest.mark.fault("F23")
def test_disk_that_takes_no_more_costs_an_attempt_and_no_checkpoint(scene):
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    for pid in working_trainer(scene).jobs():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (FAULTY_LIMIT_BYTES, FAULTY_LIMIT_BYTES))
    scene.wait_until_running(run, attempt=2)
    scene.fault_is_over()
    scene.wait_for_end()
    assert scene.told(run, "restored")


@pytest.mark.fault("F25")
def test_poison_runs_end_within_their_budgets_and_others_go_on_beside_them(scene):
    poisons = {
        "poison-segfault": ("quarantined", {}),
        "poison-exit": ("quarantined", {}),
        "poison-memory": ("failed", {}),
        "poison-data": ("failed", {}),
        "poison-hang": ("failed", {"deadline_s": 6.0}),
    }
    for name, (state, fields) in poisons.items():
        scene.start(name=name, **fields).state = state
        scene.start()
    scene.fault_is_over()
    scene.wait_for_end()


@pytest.mark.fault("F30")
def test_every_service_restarted_in_turn_fails_no_run_and_costs_no_attempt(scene):
    runs = [scene.start(LONG, judged=True) for _ in range(2)]
    scene.wait_until_running(runs[0])
    for service in scene.cluster.services:
        assert service.stop() == 0
        service.start()
    scene.cluster.wait(scene.cluster.is_ready, "an API that is ready again")
    scene.fault_is_over()
    scene.wait_for_end()
    assert all(job.counted_attempts <= 1 for run in runs for job in scene.cluster.jobs(run.run_id))


@pytest.mark.fault("F31")
@pytest.mark.parametrize(("away", "kind"), [("evaluator", "evaluate"), ("registry", "register")])
def test_stage_whose_service_is_away_waits_for_it_and_happens_once(scene, away, kind):
    service = getattr(scene.cluster, away)
    service.stop()
    run = scene.start(judged=True)

    def waits() -> bool:
        return any(job.kind == kind and job.state == "queued" for job in scene.cluster.jobs(run.run_id))

    scene.cluster.wait(waits, f"a waiting {kind} job")
    service.start()
    scene.fault_is_over()
    scene.wait_for_end()
    assert len(scene.attempts(run, kind)) == 1


@pytest.mark.fault("F28")
def test_whoever_relays_and_sweeps_beside_others_changes_nothing(scene):
    """Every service has a relay of its own, all the time; here they race for many doorbells at once."""
    runs = [scene.start(6) for _ in range(6)]
    scene.fault_is_over()
    scene.wait_for_end()
    assert all(len(scene.attempts(run)) == 1 for run in runs)
