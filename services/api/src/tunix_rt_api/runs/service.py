"""Accepting runs, and telling how they go."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tunix_rt_api.deps import Services
from tunix_rt_api.runs.pins import pin
from tunix_rt_api.runs.schemas import CheckpointOut, EventOut, JobOut, LogOut, MetricOut, RunDetail, RunOut
from tunix_rt_common import pipeline, telemetry
from tunix_rt_common.db.models import (
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    JobRecord,
    LogRecord,
    MetricRecord,
    ModelVersionRecord,
    RunRecord,
)
from tunix_rt_common.db.session import database_now
from tunix_rt_common.errors import NotFound, Overloaded
from tunix_rt_common.ids import new_id, parse_id
from tunix_rt_common.pipeline import NewJob
from tunix_rt_common.specs import RunSpec
from tunix_rt_common.states import TERMINAL, JobState


def accept_run(
    session: Session,
    services: Services,
    spec: RunSpec,
    *,
    labels: dict[str, Any] | None = None,
    timeout_s: float | None = None,
) -> RunRecord:
    """Pin, then write run, first job, event and doorbell in the caller's transaction.

    Raises:
        Overloaded: too many runs of the project wait already.
    """
    dataset, pins = pin(session, services, spec)
    _check_backlog(session, spec.project, services.settings.max_waiting_runs)
    run = RunRecord(
        id=new_id(),
        spec=spec.model_dump(mode="json"),
        pins=pins,
        labels=labels or {},
        dataset_id=dataset.id,
        project=spec.project,
        state=JobState.QUEUED,
        stage="train",
        traceparent=telemetry.traceparent(),
    )
    telemetry.annotate(run_id=run.id)
    session.add(run)
    session.flush()
    deadline_at = database_now(session) + timedelta(seconds=spec.deadline_s) if spec.deadline_s else None
    first = NewJob(
        "train",
        run_id=run.id,
        timeout_s=timeout_s,
        project=spec.project,
        priority=spec.priority,
        deadline_at=deadline_at,
        traceparent=run.traceparent,
    )
    pipeline.submit(session, first)
    return run


def _check_backlog(session: Session, project: str, limit: int) -> None:
    mine = select(func.count()).where(RunRecord.project == project, RunRecord.state == JobState.QUEUED)
    waiting = session.scalar(mine) or 0
    if waiting >= limit:
        raise Overloaded(
            f"{waiting} runs of project {project!r} wait already, which is the limit: try again when some have "
            "started, cancel some, or raise TUNIX_RT_MAX_WAITING_RUNS"
        )


def find_run(session: Session, run_id: str) -> RunRecord:
    """One run."""
    run = session.get(RunRecord, parse_id(run_id, "run"))
    if run is None:
        raise NotFound(f"no run {run_id}: GET /api/v1/runs lists them")
    return run


def cancel(session: Session, run: RunRecord) -> None:
    """Ask the run's current job to end; asking a finished run changes nothing."""
    _ask_open_jobs(session, run, pipeline.request_cancel)


def pause(session: Session, run: RunRecord) -> None:
    """Ask the run's current job to keep a checkpoint and wait; asking a finished run changes nothing."""
    _ask_open_jobs(session, run, pipeline.request_pause)


def resume(session: Session, run: RunRecord) -> None:
    """Let the run go on; asking one that is not paused changes nothing."""
    _ask_open_jobs(session, run, pipeline.resume)


def _ask_open_jobs(session: Session, run: RunRecord, ask: Callable[[Session, UUID], JobState]) -> None:
    """Ask each job once; a stage that ends while it is asked may have left a next one, so look again."""
    open_jobs = select(JobRecord.id).where(JobRecord.run_id == run.id, JobRecord.state.not_in(TERMINAL))
    asked: set[UUID] = set()
    while new := set(session.scalars(open_jobs)) - asked:
        for job_id in new:
            ask(session, job_id)
        asked |= new


def show(run: RunRecord) -> RunOut:
    """A run as lists show it."""
    return RunOut(
        run_id=run.id,
        state=run.state,
        stage=run.stage,
        project=run.project,
        dataset=f"{run.pins['dataset']['name']}@{run.pins['dataset']['version']}",
        base_model=run.pins["base_model"]["name"],
        model_name=run.pins["model_name"],
        bundle_sha256=run.bundle_sha256,
        step=run.step,
        total_steps=run.total_steps,
        failure=run.failure,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def show_detail(session: Session, run: RunRecord) -> RunDetail:
    """A run with its stages and what they made."""
    jobs = session.scalars(select(JobRecord).where(JobRecord.run_id == run.id).order_by(JobRecord.id)).all()
    checkpoints = session.scalars(
        select(CheckpointRecord).where(CheckpointRecord.run_id == run.id).order_by(CheckpointRecord.step)
    )
    evaluation = session.scalar(select(EvaluationRecord).where(EvaluationRecord.run_id == run.id))
    version = session.scalar(select(ModelVersionRecord.version).where(ModelVersionRecord.run_id == run.id))
    return RunDetail(
        **show(run).model_dump(),
        spec=RunSpec.model_validate(run.spec),
        pins=run.pins,
        jobs=[show_job(job) for job in jobs],
        checkpoints=[
            CheckpointOut(
                step=c.step, manifest_sha256=c.manifest_sha256, size_bytes=c.size_bytes, created_at=c.created_at
            )
            for c in checkpoints
        ],
        training=_training(jobs),
        evaluation_id=evaluation.id if evaluation else None,
        decision=evaluation.decision if evaluation else None,
        reason=evaluation.reason if evaluation else None,
        model_version=version,
    )


def _training(jobs: Sequence[JobRecord]) -> dict[str, Any] | None:
    """What training came to; of an imported run, what its first job was given."""
    first = next(iter(jobs), None)
    if first is None:
        return None
    return first.result if first.kind == "train" else first.payload


def show_job(job: JobRecord) -> JobOut:
    """One stage."""
    return JobOut(
        job_id=job.id,
        kind=job.kind,
        state=job.state,
        attempt=job.attempt,
        step=job.step,
        total_steps=job.total_steps,
        failure_class=job.failure_class,
        failure=job.failure,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def events(session: Session, run_id: UUID, after: int, limit: int) -> list[EventOut]:
    """The story after an event, in order."""
    wanted = select(EventRecord).where(EventRecord.run_id == run_id, EventRecord.id > after)
    return [
        EventOut(
            event_id=row.id,
            at=row.at,
            stage=row.job_kind,
            attempt=row.attempt,
            kind=row.kind,
            from_state=row.from_state,
            to_state=row.to_state,
            message=row.message,
            detail=row.detail,
        )
        for row in session.scalars(wanted.order_by(EventRecord.id).limit(limit))
    ]


def metrics(session: Session, run_id: UUID, after_step: int, limit: int) -> list[MetricOut]:
    """Metrics after a step, in order."""
    wanted = select(MetricRecord).where(MetricRecord.run_id == run_id, MetricRecord.step > after_step)
    rows = session.scalars(wanted.order_by(MetricRecord.step).limit(limit))
    return [MetricOut(step=row.step, at=row.at, numbers=row.numbers) for row in rows]


def logs(session: Session, run_id: UUID, after: int, limit: int, streams: Sequence[str]) -> list[LogOut]:
    """Pieces of output after a piece, in order; bytes that are not UTF-8 are shown as replacement characters."""
    wanted = select(LogRecord).where(LogRecord.run_id == run_id, LogRecord.id > after, LogRecord.stream.in_(streams))
    return [
        LogOut(
            log_id=row.id,
            at=row.at,
            job_id=row.job_id,
            attempt=row.attempt,
            stream=row.stream,
            text=row.chunk.decode("utf-8", "replace"),
        )
        for row in session.scalars(wanted.order_by(LogRecord.id).limit(limit))
    ]
