"""Which traces become a dataset: the pinned selection, read in two passes so that memory holds ids and not traces."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from tunix_rt_common.datasets import DatasetRow, row_from_trace
from tunix_rt_common.db.models import TraceRow
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.traces import Trace

READ_AT_ONCE = 500


def select_traces(session: Session, spec: DatasetSpec, newest: UUID | None) -> list[UUID]:
    """Ids of the selected traces in order of arrival; nothing newer than `newest` counts."""
    chosen = [
        (row.id, row.content_sha256)
        for row in session.scalars(_candidates(spec, newest).execution_options(yield_per=READ_AT_ONCE))
        if _passes(row.document.get("meta") or {}, spec.filters)
    ]
    if spec.select == "latest":
        chosen = chosen[-spec.limit :] if spec.limit else chosen
    elif spec.select == "random":
        drawn = sorted(chosen, key=lambda pair: hashlib.sha256(f"{spec.seed}:{pair[1]}".encode()).digest())
        chosen = sorted(drawn[: spec.limit])
    return [trace_id for trace_id, _ in chosen[: spec.limit]]


def read_rows(session: Session, trace_ids: Sequence[UUID]) -> Iterator[DatasetRow]:
    """The selected traces as rows, a few hundred in memory at a time."""
    for start in range(0, len(trace_ids), READ_AT_ONCE):
        wanted = trace_ids[start : start + READ_AT_ONCE]
        found = session.scalars(select(TraceRow).where(TraceRow.id.in_(wanted)).order_by(TraceRow.id))
        for row in found:
            yield row_from_trace(Trace.model_validate(row.document))
        session.expunge_all()


def prompt_groups(session: Session, trace_ids: Sequence[UUID]) -> Iterator[str]:
    """The prompt hash of each selected trace."""
    for start in range(0, len(trace_ids), READ_AT_ONCE):
        wanted = trace_ids[start : start + READ_AT_ONCE]
        yield from session.scalars(select(TraceRow.prompt_sha256).where(TraceRow.id.in_(wanted)))


def _candidates(spec: DatasetSpec, newest: UUID | None) -> Select[TraceRow]:
    statement = select(TraceRow).order_by(TraceRow.id)
    if newest is not None:
        statement = statement.where(TraceRow.id <= newest)
    if "source" in spec.filters:
        statement = statement.where(TraceRow.source == spec.filters["source"])
    return statement


def _passes(meta: dict[str, Any], filters: dict[str, str]) -> bool:
    wanted = {key.removeprefix("meta."): value for key, value in filters.items() if key.startswith("meta.")}
    return all(key in meta and str(meta[key]) == value for key, value in wanted.items())
