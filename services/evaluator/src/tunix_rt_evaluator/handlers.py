"""What the evaluator does for its one kind of job: an exec'd child generates and judges; its result is published."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from tunix_rt_common.db.models import EvaluationRecord, RunRecord
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import JobKind
from tunix_rt_common.pipeline import Claim, NewJob, tell
from tunix_rt_common.reports import EvalReport, Verdict
from tunix_rt_common.supervisor import ChildJob
from tunix_rt_common.world import World


def after_evaluation(world: World, session: Session, claim: Claim, result: dict[str, Any]) -> list[NewJob]:
    """Write the evaluation's row and submit the registration of the model that was judged."""
    run = session.get_one(RunRecord, claim.run_id)
    report = world.store.get_document(EvalReport, result["report_sha256"])
    verdict = world.store.get_document(Verdict, result["verdict_sha256"])
    baseline = run.pins["baseline"]
    session.add(
        EvaluationRecord(
            id=new_id(),
            run_id=run.id,
            model_sha256=report.model_sha256,
            report_sha256=result["report_sha256"],
            eval_set_sha256=report.eval_set_sha256,
            judge=report.judge,
            score=report.overall.model_dump(mode="json"),
            accuracy=report.overall.accuracy,
            verdict_sha256=result["verdict_sha256"],
            decision=verdict.decision,
            reason=verdict.reason,
            baseline_version_id=UUID(baseline["version_id"]) if baseline else None,
        )
    )
    tell(session, claim, "verdict", f"{verdict.decision}: {verdict.reason}", {"decision": verdict.decision})
    return [NewJob("register", payload=claim.payload, run_id=run.id)]


JOBS: dict[JobKind, ChildJob] = {"evaluate": ChildJob("tunix_rt_evaluator.job", after_evaluation)}
