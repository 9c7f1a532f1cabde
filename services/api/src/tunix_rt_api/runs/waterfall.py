"""What a run spent its time on: the spans of its trace, each below the one that caused it.

A process that dies takes the spans that were open in it along. The row of an attempt stands in for the span that it did
not leave, or has not yet; what lost its parent otherwise hangs below the innermost span of its job around it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunix_rt_api.runs.schemas import SpanLink, SpanOut, TraceOut
from tunix_rt_common.db.models import AttemptRecord, JobRecord, RunRecord, SpanRecord, utc_now
from tunix_rt_common.messages import MESSAGES, SERVICES

MAX_SPANS = 5_000
RUN_ID, JOB_ID = "tunix_rt.run_id", "tunix_rt.job_id"


def run_trace(session: Session, run: RunRecord) -> TraceOut:
    """The run's spans in the order of a waterfall: depth first, and by start below one parent."""
    trace_id = _trace_id(run.traceparent)
    if trace_id is None:
        return TraceOut(trace_id=None, started_at=None, duration_s=0.0, spans=[])
    jobs = {job.id: job for job in session.scalars(select(JobRecord).where(JobRecord.run_id == run.id))}
    kept = [row for row in _kept(session, trace_id) if _is_of(row, run.id, jobs)]
    known = {row.span_id for row in kept}
    stand_ins = [row for row in _stand_ins(session, jobs, utc_now()) if row.span_id not in known]
    return arranged(trace_id, [*kept, *stand_ins])


def arranged(trace_id: str, rows: Sequence[SpanRecord]) -> TraceOut:
    """The spans of a trace as a waterfall. One without a known parent, and without a job, begins a tree of its own."""
    if not rows:
        return TraceOut(trace_id=trace_id, started_at=None, duration_s=0.0, spans=[])
    started_at, ended_at = min(row.started_at for row in rows), max(row.ended_at for row in rows)
    known = {row.span_id for row in rows}
    below: dict[str | None, list[SpanRecord]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: (row.started_at, row.span_id)):
        below[row.parent_span_id if row.parent_span_id in known else _adopter(row, rows, known)].append(row)
    return TraceOut(
        trace_id=trace_id,
        started_at=started_at,
        duration_s=(ended_at - started_at).total_seconds(),
        spans=[_shown(row, depth, started_at) for row, depth in _depth_first(below)],
    )


def _adopter(orphan: SpanRecord, rows: Sequence[SpanRecord], known: Set[str]) -> str | None:
    """The span to show an orphan below."""
    job_id = orphan.attributes.get(JOB_ID)
    around = [
        row
        for row in rows
        if job_id is not None
        and row.attributes.get(JOB_ID) == job_id
        and row.parent_span_id in known
        and row.started_at <= orphan.started_at
        and row.ended_at >= orphan.ended_at
    ]
    return max(around, key=lambda row: row.started_at).span_id if around else None


def _depth_first(below: Mapping[str | None, Sequence[SpanRecord]]) -> Iterator[tuple[SpanRecord, int]]:
    waiting = [(row, 0) for row in reversed(below[None])]
    while waiting:
        row, depth = waiting.pop()
        yield row, depth
        waiting += [(child, depth + 1) for child in reversed(below.get(row.span_id, ()))]


def _kept(session: Session, trace_id: str) -> Sequence[SpanRecord]:
    wanted = select(SpanRecord).where(SpanRecord.trace_id == trace_id)
    return session.scalars(wanted.order_by(SpanRecord.started_at).limit(MAX_SPANS)).all()


def _is_of(row: SpanRecord, run_id: UUID, jobs: Mapping[UUID, JobRecord]) -> bool:
    """Whether a span is this run's: a client may start several runs in one trace."""
    named = row.attributes.get(RUN_ID)
    return named == str(run_id) if named else row.attributes.get(JOB_ID) in set(map(str, jobs))


def _stand_ins(session: Session, jobs: Mapping[UUID, JobRecord], now: datetime) -> Iterator[SpanRecord]:
    attempts = session.scalars(select(AttemptRecord).where(AttemptRecord.job_id.in_(jobs)))
    for attempt in attempts:
        if not attempt.traceparent:
            continue
        job = jobs[attempt.job_id]
        _, trace_id, span_id, _ = attempt.traceparent.split("-")
        yield SpanRecord(
            trace_id=trace_id,
            span_id=span_id,
            parent_span_id=_span_id(job.traceparent),
            name=job.kind,
            service=SERVICES[MESSAGES[job.kind].queue],  # type: ignore[index]
            started_at=attempt.started_at,
            ended_at=attempt.ended_at or max(now, attempt.started_at),
            status="lost" if attempt.ended_at else "running",
            attributes={JOB_ID: str(job.id), "tunix_rt.attempt": attempt.attempt},
            links={"spans": []},
        )


def _shown(row: SpanRecord, depth: int, origin: datetime) -> SpanOut:
    return SpanOut(
        span_id=row.span_id,
        parent_span_id=row.parent_span_id,
        name=row.name,
        service=row.service,
        started_at=row.started_at,
        duration_s=(row.ended_at - row.started_at).total_seconds(),
        offset_s=(row.started_at - origin).total_seconds(),
        depth=depth,
        status=row.status,
        attributes=row.attributes,
        links=[SpanLink.model_validate(link) for link in row.links["spans"]],
    )


def _trace_id(traceparent: str | None) -> str | None:
    return traceparent.split("-")[1] if traceparent else None


def _span_id(traceparent: str | None) -> str | None:
    return traceparent.split("-")[2] if traceparent else None
