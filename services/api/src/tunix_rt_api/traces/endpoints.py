"""Traces over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from tunix_rt_api.bodies import TraceRoute, refuse_compressed
from tunix_rt_api.deps import Cursor, Limit, ReadingDep, ServicesDep
from tunix_rt_api.pages import Page, newest_first
from tunix_rt_api.traces import service
from tunix_rt_api.traces.batch import BatchImport
from tunix_rt_api.traces.schemas import BatchOutcome, TraceAccepted, TraceFormat, TraceOut
from tunix_rt_common.db.models import TraceRow
from tunix_rt_common.traces import Trace

router = APIRouter(prefix="/traces", tags=["traces"], route_class=TraceRoute)
Source = Annotated[str | None, Query(max_length=200, description="where they come from; meta.source unless given")]


@router.post("", status_code=status.HTTP_201_CREATED)
def create_trace(trace: Trace, services: ServicesDep, response: Response, source: Source = None) -> TraceAccepted:
    """Store one trace; 200 instead of 201 when it was there already."""
    [accepted] = service.store_traces(services.database, [trace], source)
    if accepted.duplicate:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"/api/v1/traces/{accepted.trace_id}"
    return accepted


@router.post("/batch")
async def import_traces(
    request: Request,
    services: ServicesDep,
    trace_format: Annotated[TraceFormat, Query(alias="format")] = "auto",
    source: Source = None,
) -> BatchOutcome:
    """Import newline-delimited JSON as it streams in; bad lines are reported and the rest is kept."""
    refuse_compressed(request)
    batch = BatchImport(services.database, trace_format, source)
    async for chunk in request.stream():
        await run_in_threadpool(batch.feed, chunk)
    return await run_in_threadpool(batch.finish)


@router.get("")
def list_traces(session: ReadingDep, cursor: Cursor = None, limit: Limit = 50, source: Source = None) -> Page[TraceOut]:
    """Traces, newest first."""
    statement = select(TraceRow)
    if source is not None:
        statement = statement.where(TraceRow.source == source)
    return newest_first(session, statement, TraceRow.id, cursor, limit, service.show)


@router.get("/{trace_id}")
def get_trace(trace_id: str, session: ReadingDep) -> TraceOut:
    """One trace."""
    return service.get_trace(session, trace_id)
