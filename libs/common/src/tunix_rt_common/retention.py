"""Retention: what is past its time, and what nothing refers to, is deleted. Rows go first, then blobs no row names.

A blob is deleted when no row referred to it at one moment, and it had not been put for `YOUNG` before that moment. A
put makes a blob young, and whoever puts one writes the row that names it within that time; so nothing is deleted from
under a run that is being written, and it does not matter how many collect at once.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, CursorResult, Select, delete, exists, func, inspect, or_, select, text, tuple_

from tunix_rt_common.db.models import (
    AttemptRecord,
    Base,
    CheckpointRecord,
    EvaluationRecord,
    EventRecord,
    IdempotencyRecord,
    JobRecord,
    LogRecord,
    MetricRecord,
    ModelVersionRecord,
    OutboxRecord,
    RunRecord,
    SpanRecord,
)
from tunix_rt_common.db.session import Database, database_now
from tunix_rt_common.references import referenced
from tunix_rt_common.states import TERMINAL
from tunix_rt_common.uploads import abort_stale
from tunix_rt_common.world import World

logger = logging.getLogger(__name__)

DAY = timedelta(days=1)
YOUNG = timedelta(hours=48)
"""Longer than from any upload to the row that names it."""
BATCH = 1000
"""Rows that one transaction deletes: nobody waits long for its locks."""
COLLECTOR_LOCK = 0x7475_6E69_7872_7401

OWNED_BY_RUN = (MetricRecord, EventRecord)
OWNED_BY_JOB = (OutboxRecord, AttemptRecord)
REFERRERS = (EvaluationRecord.run_id, ModelVersionRecord.run_id)


@dataclass(frozen=True)
class Collected:
    """How many of each were deleted; `freed_bytes` are those of the blobs."""

    doorbells: int
    idempotency_keys: int
    logs: int
    spans: int
    checkpoints: int
    runs: int
    plans: int
    uploads: int
    blobs: int
    freed_bytes: int


def collect(world: World) -> Collected:
    """Delete what is past its retention. Safe beside others of its kind, and beside everything that writes.

    Raises:
        Unavailable: database or store are away, or a manifest cannot be read. What was deleted until then stays so;
            blobs come last, and none is deleted without knowing all that rows refer to.
    """
    database, store = world.database, world.store
    with database.reading() as session:
        now = database_now(session)
    cutoff = now - timedelta(days=world.settings.retention_days)
    ended = _ended_before(cutoff)
    collected = Collected(
        doorbells=_delete(database, OutboxRecord, OutboxRecord.published_at < now - DAY),
        idempotency_keys=_delete(database, IdempotencyRecord, IdempotencyRecord.created_at < now - DAY),
        logs=_delete(database, LogRecord, LogRecord.run_id.in_(ended)),
        spans=_delete(database, SpanRecord, *_untold(ended, cutoff)),
        checkpoints=_delete(database, CheckpointRecord, CheckpointRecord.run_id.in_(ended)),
        runs=_forget_runs(database, ended),
        plans=_forget_plans(database, cutoff),
        uploads=abort_stale(database, store, DAY.total_seconds()),
        **_sweep(world, now - YOUNG),
    )
    found = {name: count for name, count in asdict(collected).items() if count}
    logger.info("collected %s", ", ".join(f"{count} {name}" for name, count in found.items()) or "nothing")
    return collected


def collect_when_alone(world: World) -> Collected | None:
    """`collect`, unless another process is at it: then None."""
    with _alone(world.database) as alone:
        return collect(world) if alone else None


@contextmanager
def _alone(database: Database) -> Iterator[bool]:
    """Whether nobody else collects, held while the block lasts; who collects on SQLite is alone on its machine."""
    if database.engine.dialect.name != "postgresql":
        yield True
        return
    with database.transaction() as session:
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield bool(session.scalar(select(func.pg_try_advisory_xact_lock(COLLECTOR_LOCK))))


def _ended_before(cutoff: datetime) -> Select[UUID]:
    """The ids of runs that ended before a moment."""
    open_job = exists().where(JobRecord.run_id == RunRecord.id, JobRecord.state.not_in(TERMINAL)).correlate(RunRecord)
    return select(RunRecord.id).where(RunRecord.state.in_(TERMINAL), RunRecord.finished_at < cutoff, ~open_job)


def _untold(ended: Select[UUID], cutoff: datetime) -> tuple[ColumnElement[bool], ...]:
    """Old spans of which no run that is kept whole tells; runs may share a trace."""
    telling = select(func.substr(RunRecord.traceparent, 4, 32)).where(
        RunRecord.traceparent.is_not(None), RunRecord.id.not_in(ended)
    )
    return SpanRecord.started_at < cutoff, SpanRecord.trace_id.not_in(telling)


def _forget_runs(database: Database, ended: Select[UUID]) -> int:
    """Delete the ended runs that nothing refers to, with all that is theirs; leaves first, so a crash loses nothing."""
    referred = (exists().where(column == RunRecord.id).correlate(RunRecord) for column in REFERRERS)
    forgotten = ended.where(~or_(*referred))
    jobs = select(JobRecord.id).where(JobRecord.run_id.in_(forgotten))
    for table in OWNED_BY_RUN:
        _delete(database, table, table.run_id.in_(forgotten))
    for record in OWNED_BY_JOB:
        _delete(database, record, record.job_id.in_(jobs))
    _delete(database, JobRecord, JobRecord.run_id.in_(forgotten))
    return _delete(database, RunRecord, RunRecord.id.in_(forgotten))


def _forget_plans(database: Database, cutoff: datetime) -> int:
    """Delete the jobs that planned a run before a moment: nothing refers to a plan."""
    planned = (JobRecord.kind == "plan", JobRecord.state.in_(TERMINAL), JobRecord.finished_at < cutoff)
    for table in (EventRecord, *OWNED_BY_JOB):
        _delete(database, table, table.job_id.in_(select(JobRecord.id).where(*planned)))
    return _delete(database, JobRecord, *planned)


def _delete(database: Database, table: type[Base], *conditions: ColumnElement[bool]) -> int:
    """Delete the rows that meet all conditions, in batches; how many there were."""
    key = inspect(table).primary_key
    batch = delete(table).where(tuple_(*key).in_(select(*key).where(*conditions).limit(BATCH)))
    deleted = 0
    while True:
        with database.transaction() as session:
            outcome = session.execute(batch.execution_options(synchronize_session=False))
        count = outcome.rowcount if isinstance(outcome, CursorResult) else 0
        deleted += count
        if count < BATCH:
            return deleted


def _sweep(world: World, cutoff: datetime) -> dict[str, int]:
    """Delete the blobs that are older than the cutoff and that no row refers to.

    Rows are read before the store is listed: what was put in between is listed as young.
    """
    kept = referenced(world.database, world.store)
    blobs = freed_bytes = 0
    for blob in world.store.blobs():
        if blob.modified_at >= cutoff or bytes.fromhex(blob.sha256) in kept:
            continue
        if world.store.delete(blob.sha256, cutoff):
            blobs += 1
            freed_bytes += blob.size_bytes
    return {"blobs": blobs, "freed_bytes": freed_bytes}
