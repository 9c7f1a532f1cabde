"""Registering what a run made: one version, its provenance, and the alias where the gate allows it."""

import threading

import pytest

from tunix_rt_common.db.models import AliasRecord, EvaluationRecord, ModelVersionRecord, RunRecord
from tunix_rt_common.ids import new_id
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.promotion import current_alias
from tunix_rt_common.specs import RunSpec
from tunix_rt_common.states import JobState
from tunix_rt_common.supervisor import Supervisor
from tunix_rt_common.testing.memory_store import MemoryStore
from tunix_rt_common.world import World
from tunix_rt_registry.handlers import JOBS

CRASHED = Ending(JobState.RETRY_WAIT, "tries again")
TRAINED = {
    "manifest_sha256": "e" * 64,
    "metrics": {"train_loss": 0.5},
    "parameters": 10,
    "environment": {"jax": "0.10"},
}


class Registry:
    """A registry worker, and runs that have come as far as their registration."""

    def __init__(self, machine):
        self.machine = machine
        self.world = World(machine.settings, machine.database, MemoryStore())

    def submit(self, decision="GO", baseline=None, **spec):
        """A run whose gate said `decision` against version `baseline`, and its registration job."""
        run_id = self.machine.add_run()
        pin = {"version": baseline.version, "version_id": str(baseline.id)} if baseline else None
        with self.machine.writing() as session:
            run = session.get_one(RunRecord, run_id)
            run.spec = RunSpec(dataset="sums", base_model="tiny", **spec).model_dump(mode="json")
            run.pins = {"model_name": "sums", "baseline": pin}
            if decision:
                session.add(self._evaluation(run_id, decision, baseline))
        return self.machine.submit("register", run_id=run_id, payload=TRAINED)

    def handle(self, job_id):
        """Let the worker do it; the run's version and the last words about it."""
        Supervisor(self.world, dict(JOBS), threading.Event()).work_once()
        run_id = self.machine.job(job_id).run_id
        versions = [row for row in self.machine.all(ModelVersionRecord) if row.run_id == run_id]
        words = [event.message for event in self.machine.events(job_id) if event.kind == "registered"]
        return (versions or [None])[0], (words or [None])[-1]

    @property
    def champion(self):
        with self.machine.reading() as session:
            current = current_alias(session, "sums", "champion")
            return current.version if current else None

    def _evaluation(self, run_id, decision, baseline):
        return EvaluationRecord(
            id=new_id(),
            run_id=run_id,
            model_sha256="a" * 64,
            report_sha256="b" * 64,
            eval_set_sha256="c" * 64,
            judge="answer_correctness@1",
            score={"accuracy": 0.75},
            verdict_sha256="d" * 64,
            decision=decision,
            reason="said the gate",
            baseline_version_id=baseline.id if baseline else None,
        )


@pytest.fixture
def registry(machine):
    return Registry(machine)


def test_version_knows_where_it_comes_from(registry):
    job_id = registry.submit()
    version, _ = registry.handle(job_id)
    run = registry.machine.run_of(job_id)
    assert (version.name, version.version, version.manifest_sha256) == ("sums", 1, "e" * 64)
    assert version.metrics == {"train_loss": 0.5, "accuracy": 0.75}
    assert version.provenance == {
        "run_id": str(run.id),
        "pins": run.pins,
        "spec": run.spec,
        "report_sha256": "b" * 64,
        "verdict_sha256": "d" * 64,
        "environment": {"jax": "0.10"},
    }
    assert run.state == "succeeded"


def test_first_go_makes_the_champion_and_a_go_against_it_the_next(registry):
    first, words = registry.handle(registry.submit())
    assert (registry.champion, words) == (1, "registered sums version 1; it is 'champion' now")
    registry.handle(registry.submit(baseline=first))
    assert registry.champion == 2


@pytest.mark.parametrize("decision", ["NO-GO", "INCONCLUSIVE", None])
def test_version_without_a_go_is_registered_and_the_alias_stays(registry, decision):
    version, words = registry.handle(registry.submit(decision))
    assert (version.version, registry.champion) == (1, None)
    assert "'champion' stays" in words


def test_promotion_that_was_not_asked_for_does_not_happen(registry):
    _, words = registry.handle(registry.submit(promote=False))
    assert (registry.champion, words) == (None, "registered sums version 1; promotion was not asked for")


def test_run_that_was_pinned_before_the_champion_changed_does_not_take_its_place(registry):
    first, _ = registry.handle(registry.submit())
    slow = registry.submit(baseline=first)
    registry.machine.pause(slow)
    registry.handle(registry.submit(baseline=first))
    registry.machine.resume(slow)
    version, words = registry.handle(slow)
    assert (version.version, registry.champion) == (3, 2)
    assert "points to version 2" in words


def test_doubled_message_registers_once(registry):
    job_id = registry.submit()
    registry.handle(job_id)
    registry.handle(job_id)
    assert len(registry.machine.all(ModelVersionRecord)) == 1


def test_cancelled_run_never_gets_a_version(registry):
    before, during = registry.submit(), registry.submit()
    registry.machine.cancel(before)
    claim = registry.machine.claim(during)
    registry.machine.cancel(during)
    registry.machine.end(claim, CRASHED)
    for job_id in (before, during):
        assert registry.handle(job_id) == (None, None)
    assert registry.machine.all(AliasRecord) == []
