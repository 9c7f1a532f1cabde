"""Accepting plans, and telling what became of them. A plan is a job without a run; its result is the plan."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tunix_rt_api.deps import Services
from tunix_rt_api.plans.schemas import PlanOut
from tunix_rt_api.runs.pins import pin
from tunix_rt_common import pipeline, telemetry
from tunix_rt_common.db.models import EventRecord, JobRecord
from tunix_rt_common.errors import InvalidInput, NotFound, Overloaded
from tunix_rt_common.ids import parse_id
from tunix_rt_common.messages import JobKind
from tunix_rt_common.pipeline import NewJob
from tunix_rt_common.plans import Plan
from tunix_rt_common.specs import PlanSpec
from tunix_rt_common.states import CLAIMABLE

KIND: JobKind = "plan"
FIRST = 100
"""Priority: plans are short, and their project's runs wait for them."""


def accept_plan(session: Session, services: Services, spec: PlanSpec) -> JobRecord:
    """Pin what a run would stand on, its weights excepted, and submit the planning of it.

    Raises:
        InvalidInput: a reference points to nothing, or the run is another engine's.
        Overloaded: too many plans of the project wait already.
    """
    if spec.train.engine != "jax":
        raise InvalidInput(
            f"engine {spec.train.engine!r} cannot be planned, since plans are made by our own compiler: plan the run "
            "for engine 'jax'",
            field="train.engine",
        )
    _, pins = pin(session, services, spec, kept="description")
    _check_backlog(session, spec.project, services.settings.max_waiting_runs)
    new = NewJob(
        KIND,
        payload={"spec": spec.model_dump(mode="json"), "pins": pins},
        project=spec.project,
        priority=FIRST,
        traceparent=telemetry.traceparent(),
    )
    return pipeline.submit(session, new)


def find_plan(session: Session, plan_id: str) -> JobRecord:
    """One plan."""
    job = session.get(JobRecord, parse_id(plan_id, KIND))
    if job is None or job.kind != KIND:
        raise NotFound(f"no plan {plan_id}: POST /api/v1/plans makes one")
    return job


def show(session: Session, job: JobRecord) -> PlanOut:
    """A plan, or how far it has got."""
    newest = select(EventRecord.message).where(EventRecord.job_id == job.id).order_by(EventRecord.id.desc()).limit(1)
    return PlanOut(
        plan_id=job.id,
        state=job.state,
        progress=session.scalar(newest),
        failure=job.failure,
        plan=Plan.model_validate(job.result) if job.result else None,
        spec=PlanSpec.model_validate(job.payload["spec"]),
        created_at=job.created_at,
        finished_at=job.finished_at,
    )


def _check_backlog(session: Session, project: str, limit: int) -> None:
    mine = (JobRecord.kind == KIND, JobRecord.project == project, JobRecord.state.in_(CLAIMABLE))
    waiting = session.scalar(select(func.count()).where(*mine)) or 0
    if waiting >= limit:
        raise Overloaded(
            f"{waiting} plans of project {project!r} wait already, which is the limit: try again when some are made, "
            "or raise TUNIX_RT_MAX_WAITING_RUNS"
        )
