"""Registering what a run made: one version per run, whatever rings twice."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tunix_rt_common.db.models import EvaluationRecord, ModelVersionRecord, RunRecord
from tunix_rt_common.errors import Conflict, PromotionRefused
from tunix_rt_common.ids import new_id
from tunix_rt_common.pipeline import Claim
from tunix_rt_common.promotion import move_alias
from tunix_rt_common.specs import RunSpec


@dataclass(frozen=True)
class Registered:
    """What became of the run's model."""

    version: int
    promoted: bool
    words: str


def register(session: Session, claim: Claim, trained: dict[str, Any]) -> Registered:
    """Write the version with its provenance; then let the alias follow, if the spec says so and the gate allows it.

    `trained` is the training's result: `manifest_sha256` of the model directory, and its metrics.
    """
    run = session.get_one(RunRecord, claim.run_id)
    spec = RunSpec.model_validate(run.spec)
    version = _add_version(session, run, trained)
    name = f"{version.name} version {version.version}"
    if not spec.promote:
        return Registered(version.version, promoted=False, words=f"registered {name}; promotion was not asked for")
    try:
        baseline = run.pins["baseline"]
        expected = baseline["version"] if baseline else None
        move_alias(session, spec.alias, version, expected_version=expected, reason=f"run {run.id}")
    except (PromotionRefused, Conflict) as error:
        return Registered(version.version, promoted=False, words=f"registered {name}; {spec.alias!r} stays: {error}")
    return Registered(version.version, promoted=True, words=f"registered {name}; it is {spec.alias!r} now")


def _add_version(session: Session, run: RunRecord, trained: dict[str, Any]) -> ModelVersionRecord:
    name = run.pins["model_name"]
    newest = session.scalar(select(func.max(ModelVersionRecord.version)).where(ModelVersionRecord.name == name))
    evaluation = session.scalar(select(EvaluationRecord).where(EvaluationRecord.run_id == run.id))
    version = ModelVersionRecord(
        id=new_id(),
        name=name,
        version=(newest or 0) + 1,
        run_id=run.id,
        manifest_sha256=trained["manifest_sha256"],
        evaluation_id=evaluation.id if evaluation else None,
        metrics=trained["metrics"] | ({"accuracy": evaluation.score["accuracy"]} if evaluation else {}),
        provenance={
            "run_id": str(run.id),
            "pins": run.pins,
            "spec": run.spec,
            "report_sha256": evaluation.report_sha256 if evaluation else None,
            "verdict_sha256": evaluation.verdict_sha256 if evaluation else None,
            "environment": trained["environment"],
        },
    )
    session.add(version)
    session.flush()
    return version
