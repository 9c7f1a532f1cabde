"""THE page: what states a job has, who may move it, and what a move writes.

    queued -> running -> succeeded
       |        |  \\-> retry_wait -> running      (lost lease, infrastructure failure; attempts left)
       |        |-> failed                        (the user's error; never retried)
       |        |-> quarantined                   (attempts spent, or stuck at one step)
       |        |-> queued                        (preempted: told to leave; not counted)
       |        |-> paused -> queued              (the user's wish; keeps its last good checkpoint)
       |        \\-> cancelled                     (likewise)
       \\-> paused | cancelled | failed            (failed: its deadline passed while it waited)

Nothing outside this file writes `jobs.state` or `runs.state`. Every move is one UPDATE that names the state, and for a
running job the claim, that it expects to find; it writes state, event and doorbell in the caller's transaction.
"""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, CursorResult, and_, or_, select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from tunix_rt_common import turns
from tunix_rt_common.db.models import (
    AttemptRecord,
    EventRecord,
    JobRecord,
    OutboxRecord,
    RunRecord,
)
from tunix_rt_common.db.session import database_now
from tunix_rt_common.errors import NotFound, OwnershipLost
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import JobKind
from tunix_rt_common.states import CLAIMABLE, LEGAL, OVERRULED_BY_CANCEL, TERMINAL, WAITING, JobState

logger = logging.getLogger(__name__)


BELLS = 100
"""Doorbells that one sweep rings again for a kind of job; a worker that heard one goes on by itself."""

Wish = Literal["cancel", "deadline", "pause"]
"""Why a running job should stop: somebody asked for it, or its time is up."""


@dataclass(frozen=True)
class NewJob:
    """A job to be submitted; the next job of a run takes project, priority and deadline from the one before."""

    kind: JobKind
    payload: dict[str, Any] = field(default_factory=dict)
    run_id: UUID | None = None
    dataset_id: UUID | None = None
    timeout_s: float | None = None
    project: str = "default"
    priority: int = 0
    deadline_at: datetime | None = None
    traceparent: str | None = None


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
    waiting_since: datetime
    traceparent: str | None
    earlier_attempts: tuple[str, ...]
    """The trace contexts of the attempts before this one."""


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
        project=new.project,
        priority=new.priority,
        deadline_at=new.deadline_at,
        traceparent=new.traceparent,
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


def claim_next(session: Session, kinds: Collection[JobKind], worker: str, lease_s: float) -> Claim | None:
    """Take the job of these kinds whose turn it is; None when nothing is due."""
    job_id = turns.next_job(session, kinds)
    return claim(session, job_id, worker, lease_s) if job_id else None


def claim(session: Session, job_id: UUID, worker: str, lease_s: float) -> Claim | None:
    """Take a job that is due, by one compare-and-swap; None when somebody else has it, or nobody should."""
    now = database_now(session)
    claim_id = uuid4()
    taken = _swap(
        session,
        JobRecord.id == job_id,
        *turns.due(now),
        state=JobState.RUNNING,
        claim_id=claim_id,
        fence=JobRecord.fence + 1,
        attempt=JobRecord.attempt + 1,
        worker=worker,
        lease_expires_at=now + timedelta(seconds=lease_s),
    )
    if not taken:
        return None
    job = _job(session, job_id)
    job.started_at = job.started_at or now
    earlier = select(AttemptRecord.traceparent).where(AttemptRecord.job_id == job_id).order_by(AttemptRecord.attempt)
    links = tuple(link for link in session.scalars(earlier) if link) if job.attempt > 1 else ()
    session.add(AttemptRecord(job_id=job.id, attempt=job.attempt, claim_id=claim_id, worker=worker, started_at=now))
    _record(session, job, "state", f"{job.kind} attempt {job.attempt} started", to_state=JobState.RUNNING)
    _tell_run(session, job, JobState.RUNNING)
    turns.note_served(session, job.project, job.kind, now)
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
        waiting_since=job.not_before,
        traceparent=job.traceparent,
        earlier_attempts=links,
    )


def trace_attempt(session: Session, held: Claim, traceparent: str | None) -> None:
    """Remember the attempt's trace context, so that a later attempt can link to it."""
    session.get_one(AttemptRecord, (held.job_id, held.attempt)).traceparent = traceparent


def heartbeat(
    session: Session, held: Claim, *, step: int | None, lease_s: float, total_steps: int | None = None
) -> Wish | None:
    """Prolong the lease and record progress; why the job should stop now, if it should.

    A lease that has run out is prolonged all the same: only another claim ends ownership (`OwnershipLost`).
    """
    now = database_now(session)
    told = {"step": step, "total_steps": total_steps}
    progress = {name: value for name, value in told.items() if value is not None}
    if not _swap(session, *_held_by(held), lease_expires_at=now + timedelta(seconds=lease_s), **progress):
        raise OwnershipLost(f"job {held.job_id} has another owner by now")
    job = _job(session, held.job_id)
    if job.cancel_requested_at:
        return "cancel"
    if job.deadline_at and job.deadline_at <= now:
        return "deadline"
    return "pause" if job.pause_requested_at else None


def hold(session: Session, held: Claim) -> JobRecord:
    """The job, locked for this transaction and still ours; what is written with it is thereby fenced."""
    return _lock(session, *_held_by(held))


def advance(session: Session, held: Claim, ending: Ending, next_jobs: Sequence[NewJob] = ()) -> None:
    """End the attempt: state, event, and the next jobs with their doorbells, or nothing at all.

    A cancel that arrived before this wins over success: a cancelled run gets no further stage. A pause that arrived
    too late to stop this stage holds the next one.
    """
    state = _end_attempt(session, _held_by(held), ending)
    ended = _job(session, held.job_id)
    for new in next_jobs if state == JobState.SUCCEEDED else ():
        job = submit(
            session, replace(new, project=ended.project, priority=ended.priority, deadline_at=ended.deadline_at)
        )
        if ended.pause_requested_at:
            request_pause(session, job.id)


def request_cancel(session: Session, job_id: UUID) -> JobState:
    """Ask for the job's end. A job that nobody runs ends at once; a running one at its worker's next heartbeat."""
    now = database_now(session)
    ended = _move_waiting(
        session, job_id, WAITING, JobState.CANCELLED, "cancelled before it ran", cancel_requested_at=now,
        finished_at=now,
    )  # fmt: skip
    if not ended and _ask(session, job_id, JobRecord.cancel_requested_at, now):
        _record(session, _job(session, job_id), "cancel_requested", "cancel requested: stops at the next heartbeat")
    return JobState(_job(session, job_id).state)


def request_pause(session: Session, job_id: UUID) -> JobState:
    """Ask the job to wait until it is resumed; a running one stops at its next heartbeat and keeps a checkpoint."""
    now = database_now(session)
    paused = _move_waiting(session, job_id, CLAIMABLE, JobState.PAUSED, "paused", pause_requested_at=now)
    if not paused and _ask(session, job_id, JobRecord.pause_requested_at, now):
        _record(session, _job(session, job_id), "pause_requested", "pause requested: stops at the next heartbeat")
    return JobState(_job(session, job_id).state)


def resume(session: Session, job_id: UUID) -> JobState:
    """Let a paused job wait for a worker again, and take back a pause that has not happened yet."""
    now = database_now(session)
    resumed = _move_waiting(
        session, job_id, {JobState.PAUSED}, JobState.QUEUED, "resumed", pause_requested_at=None, not_before=now
    )
    if resumed:
        _ring(session, _job(session, job_id), now)
    else:
        _swap(session, JobRecord.id == job_id, JobRecord.state == JobState.RUNNING, pause_requested_at=None)
    return JobState(_job(session, job_id).state)


def fail_overdue(session: Session, limit: int = 100) -> int:
    """End waiting jobs whose deadline has passed; how many there were. Running ones hear of it by their heartbeat."""
    now = database_now(session)
    overdue = select(JobRecord.id).where(JobRecord.state.in_(WAITING), JobRecord.deadline_at <= now).limit(limit)
    words = "its deadline passed while it waited: start a new run with a later one"
    return sum(
        _move_waiting(
            session, job_id, WAITING, JobState.FAILED, words, failure=words, failure_class="deadline", finished_at=now
        )
        for job_id in session.scalars(overdue).all()
    )


def tell(session: Session, held: Claim, kind: str, message: str, detail: dict[str, Any] | None = None) -> None:
    """Add to the job's story; the caller's transaction must hold the claim."""
    _record(session, _job(session, held.job_id), kind, message, detail=detail)


def ring_unheard(session: Session, doorbell_s: float) -> int:
    """Announce again the kinds of job that are due and that nobody has claimed for `doorbell_s`; the doorbells rung."""
    now = database_now(session)
    unheard = and_(*turns.due(now), JobRecord.rung_at <= now - timedelta(seconds=doorbell_s))
    rung = 0
    for kind in session.scalars(select(JobRecord.kind).where(unheard).distinct()).all():
        oldest = select(JobRecord).where(unheard, JobRecord.kind == kind).order_by(JobRecord.not_before).limit(BELLS)
        for job in session.scalars(oldest).all():
            _ring(session, job, now)
            rung += 1
    session.flush()
    session.execute(update(JobRecord).where(unheard).values(rung_at=now))
    return rung


def expired(session: Session, at: datetime | None = None, limit: int = 100) -> list[JobRecord]:
    """Running jobs whose lease had run out at a moment, now unless given; locked where the database can.

    One that froze within a transaction holds its job locked: that job is passed over until the database ends the
    transaction, and holds up no other.
    """
    silent = session.query(JobRecord).filter(_silent(at or database_now(session))).order_by(JobRecord.id).limit(limit)
    return silent.with_for_update(skip_locked=True).all()


def expire(session: Session, job: JobRecord, ending: Ending, at: datetime | None = None) -> bool:
    """End an attempt whose lease had run out, unless its worker has spoken since; whether it was ended."""
    try:
        _end_attempt(session, (JobRecord.id == job.id, _silent(at or database_now(session))), ending)
    except OwnershipLost:
        return False
    return True


def _end_attempt(session: Session, expected: tuple[ColumnElement[bool], ...], ending: Ending) -> JobState:
    if ending.state not in LEGAL[JobState.RUNNING]:
        raise ValueError(f"a running job cannot become {ending.state}")
    job = _lock(session, *expected)
    now = database_now(session)
    state = _overruled(job, ending.state)
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
        _ring(session, job, now, ending.delay_s)
    _tell_run(session, job, state)
    return state


def _move_waiting(
    session: Session, job_id: UUID, from_states: Collection[JobState], state: JobState, words: str, **values: Any
) -> bool:
    """Move a job that nobody runs, with event and run; False when it is in none of these states."""
    was = session.scalar(select(JobRecord.state).where(JobRecord.id == job_id))
    if not _swap(session, JobRecord.id == job_id, JobRecord.state.in_(from_states), state=state, **values):
        return False
    job = _job(session, job_id)
    _record(session, job, "state", words, from_state=JobState(was) if was else None, to_state=state)
    _tell_run(session, job, state)
    return True


def _ask(session: Session, job_id: UUID, column: InstrumentedAttribute[datetime | None], now: datetime) -> bool:
    """Note a wish about a running job, once."""
    unasked = (JobRecord.id == job_id, JobRecord.state == JobState.RUNNING, column.is_(None))
    return _swap(session, *unasked, **{column.key: now})


def _overruled(job: JobRecord, state: JobState) -> JobState:
    """What an ending becomes by the user's wish: a cancelled job does not succeed, a paused one does not wait."""
    if job.cancel_requested_at and state in OVERRULED_BY_CANCEL:
        return JobState.CANCELLED
    return JobState.PAUSED if job.pause_requested_at and state in CLAIMABLE else state


def _silent(at: datetime) -> ColumnElement[bool]:
    return and_(JobRecord.state == JobState.RUNNING, JobRecord.lease_expires_at < at)


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


def _ring(session: Session, job: JobRecord, now: datetime, delay_s: float = 0.0) -> None:
    job.rung_at = now + timedelta(seconds=delay_s)
    bell = OutboxRecord(kind=job.kind, job_id=job.id, due_at=job.rung_at, traceparent=job.traceparent)
    session.add(bell)
    if not delay_s:
        session.info.setdefault(DOORBELLS, []).append(bell)


def doorbells(session: Session) -> Sequence[OutboxRecord]:
    """The doorbells that a transaction has written and that are due at once."""
    written: Sequence[OutboxRecord] = session.info.get(DOORBELLS, ())
    return written


DOORBELLS = "doorbells"
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


def is_due(now: datetime | ColumnElement[datetime]) -> ColumnElement[bool]:
    """Doorbells that wait to be rung, and that no relay has taken."""
    free = or_(OutboxRecord.taken_until.is_(None), OutboxRecord.taken_until < now)
    return and_(OutboxRecord.published_at.is_(None), OutboxRecord.due_at <= now, free)
