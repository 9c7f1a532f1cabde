"""THE page: what states a job has, who may move it, and what a move writes.

    queued -> running -> succeeded
       |        |  \\-> retry_wait -> running      (lost lease, infrastructure failure; attempts left)
       |        |-> failed                        (the user's error; never retried)
       |        |-> quarantined                   (attempts spent, or stuck at one step)
       |        |-> queued                        (preempted: told to leave; not counted)
       |        \\-> cancelled                     (keeps its last good checkpoint)
       \\-> cancelled

Nothing outside this file writes `jobs.state` or `runs.state`. Every move is one UPDATE that names the state, and for a
running job the claim, that it expects to find; it writes state, event and doorbell in the caller's transaction.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, CursorResult, and_, update
from sqlalchemy.orm import Session

from tunix_rt_common.db.models import AttemptRecord, EventRecord, JobRecord, OutboxRecord, RunRecord
from tunix_rt_common.db.session import database_now
from tunix_rt_common.errors import NotFound, OwnershipLost
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import JobKind

logger = logging.getLogger(__name__)


class JobState(StrEnum):
    """The states of a job, and of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRY_WAIT = "retry_wait"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED})
CLAIMABLE = frozenset({JobState.QUEUED, JobState.RETRY_WAIT})
OVERRULED_BY_CANCEL = CLAIMABLE | {JobState.SUCCEEDED}
LEGAL: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RETRY_WAIT: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED}),
    JobState.RUNNING: TERMINAL | {JobState.QUEUED, JobState.RETRY_WAIT, JobState.PAUSED},
} | dict.fromkeys(TERMINAL, frozenset())


@dataclass(frozen=True)
class NewJob:
    """A job to be submitted."""

    kind: JobKind
    payload: dict[str, Any] = field(default_factory=dict)
    run_id: UUID | None = None
    dataset_id: UUID | None = None
    timeout_s: float | None = None


@dataclass(frozen=True)
class Claim:
    """The right to work on a job and to write about it, until somebody else claims it."""

    job_id: UUID
    claim_id: UUID
    kind: JobKind
    attempt: int
    fence: int
    payload: dict[str, Any]
    run_id: UUID | None
    dataset_id: UUID | None
    timeout_s: float | None


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, in the words of the job machine.

    `counted` attempts use up the job's budget. A preemption does not.
    """

    state: JobState
    message: str
    failure_class: str | None = None
    counted: bool = True
    delay_s: float = 0.0
    result: dict[str, Any] | None = None


def submit(session: Session, new: NewJob) -> JobRecord:
    """Write a queued job, its first event and its doorbell; the caller's commit makes all of it true at once."""
    now = database_now(session)
    job = JobRecord(
        id=new_id(),
        kind=new.kind,
        run_id=new.run_id,
        dataset_id=new.dataset_id,
        payload=new.payload,
        timeout_s=new.timeout_s,
        state=JobState.QUEUED,
        not_before=now,
        rung_at=now,
    )
    session.add(job)
    session.flush()
    _record(session, job, "state", f"{new.kind} queued", to_state=JobState.QUEUED)
    _ring(session, job, now)
    _tell_run(session, job, JobState.QUEUED)
    return job


def claim(session: Session, job_id: UUID, worker: str, lease_s: float) -> Claim | None:
    """Take a job that is due, by one compare-and-swap; None when the doorbell rang for nothing."""
    now = database_now(session)
    claim_id = uuid4()
    due = and_(JobRecord.state.in_(CLAIMABLE), JobRecord.not_before <= now, JobRecord.cancel_requested_at.is_(None))
    taken = _swap(
        session,
        JobRecord.id == job_id,
        due,
        state=JobState.RUNNING,
        claim_id=claim_id,
        fence=JobRecord.fence + 1,
        attempt=JobRecord.attempt + 1,
        worker=worker,
        lease_expires_at=now + timedelta(seconds=lease_s),
    )
    if not taken:
        logger.info("doorbell for job %s rang for nothing", job_id)
        return None
    job = _job(session, job_id)
    job.started_at = job.started_at or now
    session.add(AttemptRecord(job_id=job.id, attempt=job.attempt, claim_id=claim_id, worker=worker, started_at=now))
    _record(session, job, "state", f"{job.kind} attempt {job.attempt} started", to_state=JobState.RUNNING)
    _tell_run(session, job, JobState.RUNNING)
    return Claim(
        job_id=job.id,
        claim_id=claim_id,
        kind=job.kind,  # type: ignore[arg-type]
        attempt=job.attempt,
        fence=job.fence,
        payload=job.payload,
        run_id=job.run_id,
        dataset_id=job.dataset_id,
        timeout_s=job.timeout_s,
    )


def heartbeat(
    session: Session, held: Claim, *, step: int | None, lease_s: float, total_steps: int | None = None
) -> bool:
    """Prolong the lease and record progress; True when somebody asked to cancel.

    A lease that has run out is prolonged all the same: only another claim ends ownership (`OwnershipLost`).
    """
    now = database_now(session)
    told = {"step": step, "total_steps": total_steps}
    progress = {name: value for name, value in told.items() if value is not None}
    if not _swap(session, *_held_by(held), lease_expires_at=now + timedelta(seconds=lease_s), **progress):
        raise OwnershipLost(f"job {held.job_id} has another owner by now")
    return _job(session, held.job_id).cancel_requested_at is not None


def hold(session: Session, held: Claim) -> JobRecord:
    """The job, locked for this transaction and still ours; what is written with it is thereby fenced."""
    return _lock(session, *_held_by(held))


def advance(session: Session, held: Claim, ending: Ending, next_jobs: Sequence[NewJob] = ()) -> None:
    """End the attempt: state, event, and the next jobs with their doorbells, or nothing at all.

    A cancel that arrived before this wins over success: a cancelled run gets no further stage.
    """
    state = _end_attempt(session, _held_by(held), ending)
    for job in next_jobs if state == JobState.SUCCEEDED else ():
        submit(session, job)


def request_cancel(session: Session, job_id: UUID) -> JobState:
    """Ask for the job's end. A job that nobody runs ends at once; a running one at its worker's next heartbeat."""
    now = database_now(session)
    waiting = JobRecord.state.in_([*CLAIMABLE, JobState.PAUSED])
    ended = _swap(session, JobRecord.id == job_id, waiting, state=JobState.CANCELLED, cancel_requested_at=now,
                  finished_at=now)  # fmt: skip
    unasked = and_(JobRecord.state == JobState.RUNNING, JobRecord.cancel_requested_at.is_(None))
    asked = not ended and _swap(session, JobRecord.id == job_id, unasked, cancel_requested_at=now)
    job = _job(session, job_id)
    if ended:
        _record(session, job, "state", "cancelled before it ran", to_state=JobState.CANCELLED)
        _tell_run(session, job, JobState.CANCELLED)
    elif asked:
        _record(session, job, "cancel_requested", "cancel requested: the worker stops at its next heartbeat")
    return JobState(job.state)


def tell(session: Session, held: Claim, kind: str, message: str, detail: dict[str, Any] | None = None) -> None:
    """Add to the job's story; the caller's transaction must hold the claim."""
    _record(session, _job(session, held.job_id), kind, message, detail=detail)


def ring_unheard(session: Session, doorbell_s: float) -> int:
    """Announce again every due job that nobody has claimed for `doorbell_s`; how many there were."""
    now = database_now(session)
    unheard = and_(
        JobRecord.state.in_(CLAIMABLE),
        JobRecord.not_before <= now,
        JobRecord.rung_at <= now - timedelta(seconds=doorbell_s),
    )
    jobs = session.query(JobRecord).filter(unheard).limit(1000).all()
    for job in jobs:
        _ring(session, job, now)
    return len(jobs)


def expired(session: Session, limit: int = 100) -> list[JobRecord]:
    """Running jobs whose worker has been silent for longer than its lease."""
    return session.query(JobRecord).filter(_silent(session)).limit(limit).all()


def expire(session: Session, job: JobRecord, ending: Ending) -> bool:
    """End an attempt whose lease ran out, unless its worker has spoken since; whether it was ended."""
    try:
        _end_attempt(session, (JobRecord.id == job.id, _silent(session)), ending)
    except OwnershipLost:
        return False
    return True


def _end_attempt(session: Session, expected: tuple[ColumnElement[bool], ...], ending: Ending) -> JobState:
    if ending.state not in LEGAL[JobState.RUNNING]:
        raise ValueError(f"a running job cannot become {ending.state}")
    job = _lock(session, *expected)
    now = database_now(session)
    state = JobState.CANCELLED if job.cancel_requested_at and ending.state in OVERRULED_BY_CANCEL else ending.state
    stalled = job.stalled_attempts + 1 if job.step == job.last_ended_step else 1
    attempt = session.get_one(AttemptRecord, (job.id, job.attempt))
    attempt.ended_at, attempt.outcome = now, ending.message
    _swap(
        session,
        JobRecord.id == job.id,
        state=state,
        claim_id=None,
        lease_expires_at=None,
        result=ending.result,
        failure_class=ending.failure_class,
        failure=ending.message if state in {JobState.FAILED, JobState.QUARANTINED} else None,
        counted_attempts=job.counted_attempts + int(ending.counted),
        stalled_attempts=stalled if ending.counted else 0,
        last_ended_step=job.step,
        not_before=now + timedelta(seconds=ending.delay_s),
        finished_at=now if state in TERMINAL else None,
    )
    job = _job(session, job.id)
    _record(session, job, "state", ending.message, from_state=JobState.RUNNING, to_state=state)
    if state in CLAIMABLE:
        _ring(session, job, job.not_before)
    _tell_run(session, job, state)
    return state


def _silent(session: Session) -> ColumnElement[bool]:
    return and_(JobRecord.state == JobState.RUNNING, JobRecord.lease_expires_at < database_now(session))


def _held_by(held: Claim) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return JobRecord.id == held.job_id, JobRecord.claim_id == held.claim_id


def _lock(session: Session, *expected: ColumnElement[bool]) -> JobRecord:
    """The expected job, locked until the transaction ends."""
    job_id = session.scalar(
        update(JobRecord).where(*expected).values(attempt=JobRecord.attempt).returning(JobRecord.id)
    )
    if job_id is None:
        raise OwnershipLost("the job has another owner by now")
    session.expire_all()
    return _job(session, job_id)


def _swap(session: Session, *expected: ColumnElement[bool], **values: Any) -> bool:
    """The one UPDATE of `jobs`: whether the row was as expected, and is now as given."""
    session.flush()
    statement = update(JobRecord).where(*expected).values(**values)
    outcome = session.execute(statement.execution_options(synchronize_session=False))
    session.expire_all()
    return isinstance(outcome, CursorResult) and outcome.rowcount == 1


def _job(session: Session, job_id: UUID) -> JobRecord:
    job = session.get(JobRecord, job_id)
    if job is None:
        raise NotFound(f"no job {job_id}")
    return job


def _record(
    session: Session,
    job: JobRecord,
    kind: str,
    message: str,
    *,
    from_state: JobState | None = None,
    to_state: JobState | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    session.add(
        EventRecord(
            run_id=job.run_id,
            job_id=job.id,
            job_kind=job.kind,
            attempt=job.attempt,
            kind=kind,
            message=message,
            from_state=from_state,
            to_state=to_state,
            detail=detail or {},
        )
    )


def _ring(session: Session, job: JobRecord, due_at: datetime) -> None:
    job.rung_at = due_at
    session.add(OutboxRecord(kind=job.kind, job_id=job.id, due_at=due_at))


STAGES_WITH_SUCCESSOR = frozenset({"train", "evaluate"})


def _tell_run(session: Session, job: JobRecord, state: JobState) -> None:
    """Let the run follow its newest job; a success ends the run only when no further stage follows."""
    if job.run_id is None:
        return
    now = database_now(session)
    run = session.get_one(RunRecord, job.run_id)
    run.stage = job.kind
    run.started_at = run.started_at or (now if state == JobState.RUNNING else None)
    more_to_come = state == JobState.SUCCEEDED and job.kind in STAGES_WITH_SUCCESSOR
    waits_within_run = state == JobState.QUEUED and job.kind != "train"
    run.state = JobState.RUNNING if more_to_come or waits_within_run else state
    if state in TERMINAL and not more_to_come:
        run.finished_at = now
        run.failure = job.failure


def is_due(now: datetime) -> ColumnElement[bool]:
    """Doorbells that wait to be rung."""
    return and_(OutboxRecord.published_at.is_(None), OutboxRecord.due_at <= now)
