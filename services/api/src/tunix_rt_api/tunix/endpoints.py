"""`/api/datasets/build` and `/api/tunix/*`, for scripts written against the earlier system."""

from typing import Annotated

from fastapi import APIRouter, Query, Response, status

from tunix_rt_api.bodies import JsonRoute
from tunix_rt_api.deps import ReadingDep, ServicesDep
from tunix_rt_api.runs.service import accept_run, find_run
from tunix_rt_api.tunix import service
from tunix_rt_api.tunix.schemas import (
    DatasetBuildRequest,
    DatasetBuildResponse,
    Pagination,
    Status,
    TunixRunList,
    TunixRunRequest,
    TunixRunResponse,
    TunixStatus,
)
from tunix_rt_common.errors import NotFound

router = APIRouter(tags=["earlier system"], route_class=JsonRoute)


@router.post("/datasets/build", status_code=status.HTTP_201_CREATED)
def build_dataset(request: DatasetBuildRequest, services: ServicesDep) -> DatasetBuildResponse:
    """Build a dataset from stored traces."""
    return service.build_dataset(services, request)


@router.post("/tunix/run", status_code=status.HTTP_202_ACCEPTED)
def run(request: TunixRunRequest, services: ServicesDep, response: Response) -> TunixRunResponse:
    """Plan a run (dry_run, the default) or accept it."""
    if request.dry_run:
        with services.database.reading() as session:
            return service.plan(services, session, request)
    with services.database.transaction() as session:
        accepted = accept_run(
            session,
            services,
            service.run_spec(request),
            labels=service.labels_of(request),
            timeout_s=request.timeout_seconds,
        )
        shown = service.show(session, accepted)
    response.headers["Location"] = f"/api/tunix/runs/{shown.run_id}"
    return shown


@router.get("/tunix/status")
def tunix_status(services: ServicesDep) -> TunixStatus:
    """Whether google-tunix is installed."""
    return service.status(services.settings)


@router.get("/tunix/runs")
def list_runs(
    session: ReadingDep,
    status: Status | None = None,
    dataset_key: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
) -> TunixRunList:
    """Runs accepted here, newest first."""
    found = service.list_runs(session, status, dataset_key, offset, limit + 1)
    next_offset = offset + limit if len(found) > limit else None
    return TunixRunList(data=found[:limit], pagination=Pagination(limit=limit, offset=offset, next_offset=next_offset))


@router.get("/tunix/runs/{run_id}")
def get_run(run_id: str, session: ReadingDep) -> TunixRunResponse:
    """One run with the end of its output."""
    found = find_run(session, run_id)
    if not found.labels.get("tunix"):
        raise NotFound(f"run {run_id} was not started here: GET /api/v1/runs/{run_id} shows it")
    return service.show(session, found)
