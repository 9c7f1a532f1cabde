"""Runs over HTTP."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response, status
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from tunix_rt_api.bodies import JsonRoute
from tunix_rt_api.deps import Cursor, Limit, ReadingDep, ServicesDep
from tunix_rt_api.idempotency import IdempotencyKey, once
from tunix_rt_api.pages import Page, newest_first
from tunix_rt_api.plans.endpoints import create_plan
from tunix_rt_api.plans.schemas import PlanOut
from tunix_rt_api.runs import service
from tunix_rt_api.runs.schemas import EventOut, LogOut, MetricOut, RunDetail, RunOut, TraceOut
from tunix_rt_api.runs.waterfall import run_trace
from tunix_rt_common.db.models import RunRecord
from tunix_rt_common.errors import NotFound
from tunix_rt_common.specs import PlanSpec, RunSpec
from tunix_rt_common.states import JobState

router = APIRouter(prefix="/runs", tags=["runs"], route_class=JsonRoute)
After = Annotated[int, Query(ge=0, lt=2**63, description="only what comes after this")]
Many = Annotated[int, Query(ge=1, le=10_000)]


@router.post("", status_code=status.HTTP_202_ACCEPTED)
def create_run(
    spec: RunSpec, services: ServicesDep, response: Response, key: IdempotencyKey = None, *, dry_run: bool = False
) -> RunOut | PlanOut:
    """Accept a run: train, evaluate, gate, register. With `dry_run` it is planned instead, and nothing is trained."""
    if dry_run:
        return create_plan(PlanSpec.model_validate(dict(spec)), services, response, key)
    with services.database.transaction() as session:
        run = once(session, key, spec, RunOut, lambda: service.show(service.accept_run(session, services, spec)))
    response.headers["Location"] = f"/api/v1/runs/{run.run_id}"
    return run


@router.get("")
def list_runs(
    session: ReadingDep, cursor: Cursor = None, limit: Limit = 50, state: JobState | None = None
) -> Page[RunOut]:
    """Runs, newest first."""
    statement = select(RunRecord)
    if state is not None:
        statement = statement.where(RunRecord.state == state)
    return newest_first(session, statement, RunRecord.id, cursor, limit, service.show)


@router.get("/{run_id}")
def get_run(run_id: str, session: ReadingDep) -> RunDetail:
    """One run: state, pins, stages, checkpoints, verdict, version."""
    return service.show_detail(session, service.find_run(session, run_id))


@router.get("/{run_id}/events")
def get_events(run_id: str, session: ReadingDep, after: After = 0, limit: Many = 1000) -> list[EventOut]:
    """The story so far, or what is new in it."""
    return service.events(session, service.find_run(session, run_id).id, after, limit)


@router.get("/{run_id}/metrics")
def get_metrics(
    run_id: str,
    session: ReadingDep,
    after_step: Annotated[int, Query(ge=-1, lt=2**31)] = -1,
    limit: Many = 10_000,
) -> list[MetricOut]:
    """What each step measured: loss, learning_rate, gradient_norm, tokens_per_s, eta_s, validation_loss."""
    return service.metrics(session, service.find_run(session, run_id).id, after_step, limit)


@router.get("/{run_id}/trace")
def get_trace(run_id: str, session: ReadingDep) -> TraceOut:
    """Where the time went: the spans of every service, in the order of a waterfall; none where nothing was traced."""
    return run_trace(session, service.find_run(session, run_id))


@router.get("/{run_id}/logs")
def get_logs(
    run_id: str,
    session: ReadingDep,
    after: After = 0,
    limit: Many = 1000,
    stream: Literal["stdout", "stderr"] | None = None,
) -> list[LogOut]:
    """What the stages wrote, as it was captured."""
    streams = [stream] if stream else ["stdout", "stderr"]
    return service.logs(session, service.find_run(session, run_id).id, after, limit, streams)


@router.get("/{run_id}/logs.txt")
def get_whole_logs(run_id: str, session: ReadingDep, services: ServicesDep) -> StreamingResponse:
    """Everything that the stages wrote, from the artifact that is kept at each stage's end."""
    run = service.find_run(session, run_id)
    if run.logs_sha256 is None:
        raise NotFound(f"run {run_id} has no archived logs yet: GET /api/v1/runs/{run_id}/logs has what is new")
    return StreamingResponse(services.store.stream(run.logs_sha256), media_type="text/plain; charset=utf-8")


@router.post("/{run_id}/cancel", status_code=status.HTTP_202_ACCEPTED)
def cancel_run(run_id: str, services: ServicesDep) -> RunOut:
    """Ask the run to end; it keeps its last good checkpoint. Asking twice, or too late, changes nothing."""
    with services.database.transaction() as session:
        run = service.find_run(session, run_id)
        service.cancel(session, run)
        return service.show(run)


@router.post("/{run_id}/pause", status_code=status.HTTP_202_ACCEPTED)
def pause_run(run_id: str, services: ServicesDep) -> RunOut:
    """Ask the run to keep a checkpoint and wait until it is resumed. Asking twice, or too late, changes nothing."""
    with services.database.transaction() as session:
        run = service.find_run(session, run_id)
        service.pause(session, run)
        return service.show(run)


@router.post("/{run_id}/resume", status_code=status.HTTP_202_ACCEPTED)
def resume_run(run_id: str, services: ServicesDep) -> RunOut:
    """Let a paused run go on from its last checkpoint. Asking one that is not paused changes nothing."""
    with services.database.transaction() as session:
        run = service.find_run(session, run_id)
        service.resume(session, run)
        return service.show(run)
