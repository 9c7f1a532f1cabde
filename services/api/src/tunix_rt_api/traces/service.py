"""Storing traces, once each."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunix_rt_api.traces.schemas import BatchOutcome, RejectedLine, TraceAccepted, TraceOut
from tunix_rt_common.db.models import TraceRow
from tunix_rt_common.db.session import Database
from tunix_rt_common.errors import Conflict, NotFound
from tunix_rt_common.ids import new_id, parse_id
from tunix_rt_common.traces import Trace

MAX_LISTED_REJECTIONS = 10_000
STORE_TRIES = 3


def store_traces(database: Database, traces: Sequence[Trace], source: str | None) -> list[TraceAccepted]:
    """Store what is new; the answer says for each trace, in order, whether it was there before.

    Another writer may store the same trace between our look and our insert; then we look again.
    """
    for attempt in range(STORE_TRIES):
        try:
            with database.transaction() as session:
                return _store(session, traces, source)
        except Conflict:
            if attempt == STORE_TRIES - 1:
                raise
    raise AssertionError("unreachable")


def get_trace(session: Session, trace_id: str) -> TraceOut:
    """One trace."""
    row = session.get(TraceRow, parse_id(trace_id, "trace"))
    if row is None:
        raise NotFound(f"no trace {trace_id}: GET /api/v1/traces lists them")
    return show(row)


def show(row: TraceRow) -> TraceOut:
    """A row as the API shows it."""
    return TraceOut(
        trace_id=row.id,
        content_sha256=row.content_sha256,
        source=row.source,
        created_at=row.created_at,
        trace=Trace.model_validate(row.document),
    )


def add_rejection(outcome: BatchOutcome, line: int, error: str) -> None:
    """Count a bad line; list it while the list is short."""
    outcome.rejected_count += 1
    if len(outcome.rejected) < MAX_LISTED_REJECTIONS:
        outcome.rejected.append(RejectedLine(line=line, error=error))


def _store(session: Session, traces: Sequence[Trace], source: str | None) -> list[TraceAccepted]:
    hashes = [trace.content_sha256() for trace in traces]
    found = session.execute(select(TraceRow.content_sha256, TraceRow.id).where(TraceRow.content_sha256.in_(hashes)))
    known = {sha256: trace_id for sha256, trace_id in found}  # noqa: C416 - rows are not tuples
    accepted = []
    for sha256, trace in zip(hashes, traces, strict=True):
        duplicate = sha256 in known
        if not duplicate:
            known[sha256] = _insert(session, trace, sha256, source)
        accepted.append(TraceAccepted(trace_id=known[sha256], content_sha256=sha256, duplicate=duplicate))
    return accepted


def _insert(session: Session, trace: Trace, sha256: str, source: str | None) -> UUID:
    meta = trace.meta or {}
    own_source = meta.get("source") or meta.get("dataset")
    row = TraceRow(
        id=new_id(),
        content_sha256=sha256,
        prompt_sha256=trace.prompt_sha256(),
        source=source or (str(own_source)[:200] if own_source else None),
        document=trace.model_dump(mode="json", exclude_none=True),
    )
    session.add(row)
    return row.id
