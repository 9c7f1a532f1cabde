"""The pages. Each asks what its JSON twin asks and renders the answer."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from tunix_rt_api.datasets import endpoints as datasets
from tunix_rt_api.datasets.endpoints import Split
from tunix_rt_api.deps import Cursor, ReadingDep, ServicesDep
from tunix_rt_api.evaluations import endpoints as evaluations
from tunix_rt_api.models import service as models
from tunix_rt_api.runs import endpoints as runs
from tunix_rt_api.traces import endpoints as traces
from tunix_rt_api.traces.endpoints import Source
from tunix_rt_api.web import queries
from tunix_rt_api.web.comparison import comparable_groups
from tunix_rt_api.web.live import live_run
from tunix_rt_api.web.rendering import render
from tunix_rt_common.specs import Target
from tunix_rt_common.states import JobState

VERSIONS_SHOWN = 100
PAGE_SIZE = 25
NEWEST_RUNS = 8
ALIAS_HOLDERS = 6
PREVIEW_ROWS = 5
LEADERBOARD_ROWS = 100

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
Offset = Annotated[int, Query(ge=0, lt=2**31)]
Outcome = Literal["correct", "wrong", "unscored"]


@router.get("/")
def home(request: Request, session: ReadingDep) -> HTMLResponse:
    """What there is, who is champion, what runs, what to do next."""
    return render(
        "home.html",
        server=str(request.base_url).rstrip("/"),
        counts=queries.counts(session),
        holders=queries.alias_holders(session, ALIAS_HOLDERS),
        datasets=datasets.list_datasets(session, limit=1).items,
        runs=runs.list_runs(session, limit=NEWEST_RUNS).items,
    )


@router.get("/traces")
def trace_list(session: ReadingDep, cursor: Cursor = None, source: Source = None) -> HTMLResponse:
    """Traces, newest first, of one source if asked."""
    page = traces.list_traces(session, cursor, PAGE_SIZE, source or None)
    return render("traces.html", page=page, source=source, cursor=cursor)


@router.get("/datasets")
def dataset_list(session: ReadingDep, cursor: Cursor = None) -> HTMLResponse:
    """Dataset versions, newest first."""
    return render("datasets.html", page=datasets.list_datasets(session, cursor, PAGE_SIZE), cursor=cursor)


@router.get("/datasets/{dataset_id}")
def dataset_detail(
    dataset_id: str, session: ReadingDep, services: ServicesDep, split: Split = "train", target: Target = "trace"
) -> HTMLResponse:
    """One dataset version, and how its first rows look to a model."""
    dataset = datasets.get_dataset(dataset_id, session, services)
    rows = (
        datasets.preview_dataset(dataset_id, session, services, target, split, PREVIEW_ROWS) if dataset.manifest else []
    )
    return render("dataset.html", dataset=dataset, rows=rows, split=split, target=target)


@router.get("/runs")
def run_list(session: ReadingDep, cursor: Cursor = None, state: JobState | None = None) -> HTMLResponse:
    """Runs, newest first, of one state if asked."""
    page = runs.list_runs(session, cursor, PAGE_SIZE, state)
    return render("runs.html", page=page, state=state, cursor=cursor, runs_by_state=queries.runs_by_state(session))


@router.get("/runs/{run_id}")
def run_detail(run_id: str, session: ReadingDep) -> HTMLResponse:
    """One run, live while it is not over."""
    return render("run.html", live=live_run(session, run_id))


@router.get("/runs/{run_id}/live")
def run_live(run_id: str, session: ReadingDep) -> HTMLResponse:
    """The changing part of a run's page; without polling attributes once the run is over."""
    return render("_live.html", live=live_run(session, run_id))


@router.get("/evaluations/{evaluation_id}")
def evaluation_detail(
    evaluation_id: str,
    session: ReadingDep,
    services: ServicesDep,
    outcome: Outcome | None = None,
    offset: Offset = 0,
) -> HTMLResponse:
    """One evaluation with its items, of one outcome if asked."""
    evaluation = evaluations.get_evaluation(evaluation_id, session, services)
    items = evaluations.get_items(evaluation_id, session, services, outcome, offset, PAGE_SIZE)
    return render("evaluation.html", evaluation=evaluation, items=items, outcome=outcome, offset=offset)


@router.get("/leaderboard")
def leaderboard(session: ReadingDep) -> HTMLResponse:
    """Versions by score, in groups that can be compared."""
    return render("leaderboard.html", groups=comparable_groups(evaluations.get_leaderboard(session, LEADERBOARD_ROWS)))


@router.get("/models")
def model_list(session: ReadingDep) -> HTMLResponse:
    """Every registered model."""
    return render("models.html", models=models.list_models(session))


@router.get("/models/{name}")
def model_detail(name: str, session: ReadingDep, services: ServicesDep, offset: Offset = 0) -> HTMLResponse:
    """One model's versions, newest first."""
    rows = models.versions(session, name, VERSIONS_SHOWN)
    shown = [models.show(session, services.store, row) for row in rows[offset : offset + PAGE_SIZE]]
    return render(
        "model.html",
        model=models.find_model(session, name),
        versions=shown,
        offset=offset,
        next_offset=offset + PAGE_SIZE if offset + PAGE_SIZE < len(rows) else None,
    )
