"""One scenario on the cluster: the runs that it starts, and what became of them."""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from tests.faults.suite import lightengine
from tests.faults.suite.auditor import audit
from tests.faults.suite.cluster import DATASET, Cluster
from tests.faults.suite.scoreboard import Score

from tunix_rt_common.db.models import AttemptRecord, CheckpointRecord, EventRecord, MetricRecord, ModelVersionRecord
from tunix_rt_common.settings import Settings

STEPS, CHECKPOINT_EVERY = 20, 10
LONG = 90
"""Steps of a run that is still going when a fault has come: 3 s of them."""
JUDGED = {"limit": 5}


def in_long_form(*values: Any) -> Any:
    """Parameters of a scenario that the short form leaves out: others are like it."""
    return pytest.param(*values, marks=pytest.mark.long)


def light_spec(
    seed: int, steps: int = STEPS, *, judged: bool = False, name: str = "light", **fields: Any
) -> dict[str, Any]:
    """A run without JAX; judged or not, it is registered."""
    train = {"max_steps": steps, "epochs": 10_000.0, "checkpoint_every": CHECKPOINT_EVERY, "seed": seed}
    evaluate = JUDGED if judged else None
    return {"dataset": DATASET, "base_model": "tiny", "train": train, "evaluate": evaluate, "model_name": name} | fields


def real_spec(seed: int, steps: int) -> dict[str, Any]:
    """A real training of the smallest model."""
    train = {
        "max_steps": steps, "epochs": 10_000.0, "batch_size": 8, "max_tokens": 96, "checkpoint_every": 5,
        "validate_every": 10_000, "seed": seed,
    }  # fmt: skip
    return {"dataset": DATASET, "base_model": "tiny", "train": train, "evaluate": None, "model_name": "real"}


@dataclass
class Run:
    """A run that was accepted, and what it has to come to."""

    run_id: str
    model_sha256: str | None
    losses: dict[int, float] = field(default_factory=dict)
    state: str = "succeeded"

    @classmethod
    def of(cls, run_id: str, spec: dict[str, Any]) -> "Run":
        """What a light run comes to; of a real one that is not known beforehand."""
        if spec["model_name"] == "real":
            return cls(run_id, None)
        seed, steps = spec["train"]["seed"], spec["train"]["max_steps"]
        losses = {state.step: state.loss for state in lightengine.history(seed, steps)[1:]}
        return cls(run_id, lightengine.model_sha256(seed, steps), losses)


class Scene:
    """What a scenario does to the cluster, and the judgement at its end."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.runs: list[Run] = []
        self.passed: list[str] = []
        """The crash points at which a process has died."""
        self.lost: list[str] = []
        """What became of the runs that did not end as they should."""
        self._seeds = iter(range(int(time.time() * 1000) % 10**9, 2**31))
        self._fault_ended = time.monotonic()
        self._recovered_s: float | None = None

    def start(self, steps: int = STEPS, **fields: Any) -> Run:
        """Have a light run accepted."""
        return self.start_spec(light_spec(next(self._seeds), steps, **fields))

    def start_spec(self, spec: dict[str, Any], *, key: str | None = None) -> Run:
        """Have a run accepted."""
        return self.add(Run.of(self.cluster.submit(spec, key=key), spec))

    def spec(self, steps: int = STEPS, **fields: Any) -> dict[str, Any]:
        """A light run of its own that is not asked for yet."""
        return light_spec(next(self._seeds), steps, **fields)

    def add(self, run: Run) -> Run:
        """Answer for a run."""
        self.runs.append(run)
        return run

    def fault_is_over(self) -> None:
        """Recovery is timed from here."""
        self._fault_ended = time.monotonic()

    def wait_for_end(self, *runs: Run, patience_s: float = 180.0) -> None:
        """Wait until these runs have ended, or all of the scenario."""
        ids = [run.run_id for run in runs or self.runs]
        self.cluster.wait(lambda: self.cluster.all_ended(ids), f"the end of {len(ids)} runs", patience_s)
        self._recovered_s = time.monotonic() - self._fault_ended

    def wait_for_checkpoint(self, run: Run, step: int = 1) -> None:
        """Wait until the run has published one of this step or a later one."""
        mine = (CheckpointRecord.run_id == UUID(run.run_id), CheckpointRecord.step >= step)
        self.cluster.wait(lambda: self.cluster.rows(CheckpointRecord, *mine), f"a checkpoint of run {run.run_id}")

    def wait_until_running(self, run: Run, attempt: int = 1) -> None:
        """Wait until an attempt of the run's first job has reported a step."""

        def is_running() -> bool:
            job = self.cluster.jobs(run.run_id)[0]
            return job.state == "running" and job.attempt >= attempt and self.cluster.run(run.run_id).step > 0

        self.cluster.wait(is_running, f"run {run.run_id} to run")

    def attempts(self, run: Run, kind: str = "train") -> list[AttemptRecord]:
        """The attempts of one of its jobs."""
        [job] = [job for job in self.cluster.jobs(run.run_id) if job.kind == kind]
        return self.cluster.rows(AttemptRecord, AttemptRecord.job_id == job.id)

    def story(self, run: Run) -> list[EventRecord]:
        """What is told of the run."""
        return self.cluster.rows(EventRecord, EventRecord.run_id == UUID(run.run_id))

    def told(self, run: Run, kind: str) -> list[EventRecord]:
        """The parts of its story that are of a kind."""
        return [event for event in self.story(run) if event.kind == kind]

    def settle(self) -> Score:
        """Heal, wait for the end of everything, audit, and count."""
        self.cluster.heal()
        if self.runs and not self.cluster.all_ended([run.run_id for run in self.runs]):
            self.wait_for_end()
        self.lost = [self._fate(run) for run in self.runs if self.cluster.run(run.run_id).state != run.state]
        return Score(
            scenario="",
            runs=len(self.runs),
            lost=len(self.lost),
            doubled=sum(self._is_doubled(run) for run in self.runs),
            changed=sum(self._is_changed(run) for run in self.runs),
            recovered_s=self._recovered_s if self.runs else None,
        )

    def violations(self) -> list[str]:
        """What the auditor finds wrong anywhere in the cluster, and has not found before."""
        settings = Settings(home=self.cluster.home, max_attempts=40)
        cluster = self.cluster
        found = audit(cluster.database, cluster.store, settings, accepted=cluster.accepted, settled=True)
        new = [sentence for sentence in found if sentence not in cluster.reported]
        cluster.reported.update(new)
        return new

    def _fate(self, run: Run) -> str:
        """The run's end, and everything that led to it."""
        story = [
            f"  {event.at:%X} {event.job_kind} {event.attempt} {event.to_state or event.kind}: {event.message}"
            for event in self.story(run)
        ]
        return "\n".join([f"run {run.run_id} is {self.cluster.run(run.run_id).state}, not {run.state}:", *story])

    def _is_doubled(self, run: Run) -> bool:
        mine = UUID(run.run_id)
        ends = self.cluster.rows(EventRecord, EventRecord.run_id == mine, EventRecord.to_state == "succeeded")
        versions = self.cluster.rows(ModelVersionRecord, ModelVersionRecord.run_id == mine)
        return len({event.job_id for event in ends}) < len(ends) or len(versions) > 1

    def _is_changed(self, run: Run) -> bool:
        """Whether weights or losses are other than those without faults, as far as there are any."""
        result = self.cluster.jobs(run.run_id)[0].result
        if run.model_sha256 and result and result["manifest_sha256"] != run.model_sha256:
            return True
        measured = self.cluster.rows(MetricRecord, MetricRecord.run_id == UUID(run.run_id))
        return any(run.losses.get(row.step, row.numbers["loss"]) != row.numbers["loss"] for row in measured)
