"""The earlier system's words over today's datasets and runs."""

import math
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from tunix_rt_api.datasets.service import accept_build, build_job, read_manifest
from tunix_rt_api.deps import Services
from tunix_rt_api.runs.pins import pin
from tunix_rt_api.tunix.output import cut_utf8
from tunix_rt_api.tunix.schemas import (
    DatasetBuildRequest,
    DatasetBuildResponse,
    Status,
    TunixRunItem,
    TunixRunRequest,
    TunixRunResponse,
    TunixStatus,
)
from tunix_rt_common.db.models import DatasetRecord, JobRecord, LogRecord, RunRecord, utc_now
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.ids import new_id
from tunix_rt_common.settings import Settings
from tunix_rt_common.specs import DatasetSpec, OptimizerSpec, RunSpec, SftSpec
from tunix_rt_common.states import TERMINAL, JobState

BUILD_PATIENCE_S = 20.0
POLL_S = 0.05
STATUSES: dict[JobState, Status] = {
    JobState.QUEUED: "pending",
    JobState.RETRY_WAIT: "pending",
    JobState.PAUSED: "pending",
    JobState.RUNNING: "running",
    JobState.SUCCEEDED: "completed",
    JobState.FAILED: "failed",
    JobState.QUARANTINED: "failed",
    JobState.CANCELLED: "cancelled",
}


def build_dataset(services: Services, request: DatasetBuildRequest) -> DatasetBuildResponse:
    """Build, and wait a little: callers of this endpoint expect the dataset to be there when it answers."""
    spec = _dataset_spec(request)
    with services.database.transaction() as session:
        dataset = accept_build(session, spec)
    built = _wait_for_build(services, dataset.id)
    return DatasetBuildResponse(
        dataset_key=spec.name,
        build_id=dataset.id,
        trace_count=built.get("rows", 0),
        manifest_path=f"/api/v1/datasets/{dataset.id}",
    )


def run_spec(request: TunixRunRequest) -> RunSpec:
    """Today's spec for yesterday's request: training alone, registered but not promoted."""
    train = SftSpec(
        engine=request.engine,
        epochs=request.num_epochs,
        batch_size=request.batch_size,
        max_tokens=request.max_seq_length,
        optimizer=OptimizerSpec(learning_rate=request.learning_rate),
    )
    return RunSpec(dataset=request.dataset_key, base_model=request.model_id, train=train, evaluate=None, promote=False)


def plan(services: Services, session: Session, request: TunixRunRequest) -> TunixRunResponse:
    """Validate everything that a run would stand on, and say what it would do. Nothing is kept of it."""
    started_at = utc_now()
    spec = run_spec(request)
    dataset, pins = pin(session, services, spec, kept="nothing")
    rows = read_manifest(services.store, dataset).splits["train"].rows
    steps = math.ceil(rows * spec.train.epochs / spec.train.batch_size)
    lines = [
        f"dataset     {dataset.name}@{dataset.version} ({rows} training rows, sha256 {dataset.dataset_sha256})",
        f"base model  {pins['base_model']['name']}",
        f"training    {spec.train.epochs:g} epochs, batch size {spec.train.batch_size}, about {steps} steps",
        f"optimizer   AdamW, learning rate {spec.train.optimizer.learning_rate:g}",
        f"code        {pins['code_version']}",
    ]
    return TunixRunResponse(
        run_id=new_id(),
        status="completed",
        mode="dry-run",
        dataset_key=request.dataset_key,
        model_id=request.model_id,
        output_dir=request.output_dir or "artifact store",
        stdout="\n".join(lines) + "\n",
        duration_seconds=(utc_now() - started_at).total_seconds(),
        started_at=started_at,
        completed_at=utc_now(),
        message="the plan is valid; send dry_run=false to run it",
    )


def labels_of(request: TunixRunRequest) -> dict[str, Any]:
    """What only this router needs to know of a run later."""
    return {
        "tunix": True,
        "dataset_key": request.dataset_key,
        "model_id": request.model_id,
        "output_dir": request.output_dir,
        "max_output_bytes": request.max_output_bytes,
    }


def show(session: Session, run: RunRecord) -> TunixRunResponse:
    """A run in the earlier system's form."""
    job = _training(session, run)
    status, limit = _status(run, job), int(run.labels["max_output_bytes"])
    exit_codes = {"completed": 0, "failed": 1, "timeout": -1}
    return TunixRunResponse(
        **_item(run, status).model_dump(),
        output_dir=run.labels["output_dir"] or f"/api/v1/runs/{run.id}",
        exit_code=exit_codes.get(status),
        stdout=cut_utf8(_output(session, run.id, "stdout"), limit),
        stderr=cut_utf8(_output(session, run.id, "stderr"), limit),
        completed_at=run.finished_at,
        message=run.failure or f"{run.stage} {run.state}",
        logs_url=f"/api/v1/runs/{run.id}/logs.txt" if run.logs_sha256 else None,
    )


def list_runs(
    session: Session, status: Status | None, dataset_key: str | None, offset: int, limit: int
) -> list[TunixRunItem]:
    """At most `limit` runs of this router, newest first."""
    wanted = select(RunRecord).where(RunRecord.labels["tunix"].as_boolean())
    if dataset_key is not None:
        wanted = wanted.where(RunRecord.labels["dataset_key"].as_string() == dataset_key)
    if status is not None:
        wanted = wanted.join(JobRecord, and_(JobRecord.run_id == RunRecord.id, JobRecord.kind == "train"))
        wanted = wanted.where(_has_status(status))
    runs = session.scalars(wanted.order_by(RunRecord.id.desc()).offset(offset).limit(limit))
    return [_item(run, _status(run, _training(session, run))) for run in runs]


def status(settings: Settings) -> TunixStatus:
    """Whether google-tunix is there: here, or in the environment that the settings name."""
    here = find_spec("tunix") is not None
    available = here or settings.tunix_python is not None
    message = (
        "installed" if available else "not installed, and not needed: the engine 'jax' trains; pip install google-tunix"
    )
    return TunixStatus(available=available, version=version("google-tunix") if here else None, message=message)


def _dataset_spec(request: DatasetBuildRequest) -> DatasetSpec:
    filters = {
        key if key == "source" or key.startswith("meta.") else f"meta.{key}": value
        for key, value in request.filters.items()
    }
    try:
        return DatasetSpec(
            name=f"{request.dataset_name}-{request.dataset_version}".lower(),
            select=request.selection_strategy,
            limit=request.limit,
            filters=filters,
            seed=request.seed or 0,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(f"{first['loc'][0]}: {first['msg']}", field="dataset_name") from None


def _wait_for_build(services: Services, dataset_id: UUID) -> dict[str, Any]:
    deadline = time.monotonic() + BUILD_PATIENCE_S
    while time.monotonic() < deadline:
        with services.database.reading() as session:
            job = build_job(session, session.get_one(DatasetRecord, dataset_id))
        if job.state == JobState.SUCCEEDED:
            return job.result or {}
        if job.state in TERMINAL:
            raise InvalidInput(job.failure or f"the build was {job.state}")
        time.sleep(POLL_S)
    return {}


def _training(session: Session, run: RunRecord) -> JobRecord:
    return session.scalars(select(JobRecord).where(JobRecord.run_id == run.id, JobRecord.kind == "train")).one()


def _status(run: RunRecord, job: JobRecord) -> Status:
    return "timeout" if job.failure_class == "timeout" else STATUSES[JobState(run.state)]


def _has_status(status: Status) -> ColumnElement[bool]:
    timed_out = JobRecord.failure_class == "timeout"
    if status == "timeout":
        return timed_out
    states = [state for state, named in STATUSES.items() if named == status]
    return and_(RunRecord.state.in_(states), timed_out.is_not(True))


def _item(run: RunRecord, status: Status) -> TunixRunItem:
    started_at = run.started_at or run.created_at
    return TunixRunItem(
        run_id=run.id,
        dataset_key=run.labels["dataset_key"],
        model_id=run.labels["model_id"],
        mode="local",
        status=status,
        started_at=started_at,
        duration_seconds=(run.finished_at - started_at).total_seconds() if run.finished_at else None,
    )


def _output(session: Session, run_id: UUID, stream: str) -> Iterator[bytes]:
    wanted = select(LogRecord.chunk).where(LogRecord.run_id == run_id, LogRecord.stream == stream)
    yield from session.scalars(wanted.order_by(LogRecord.id).execution_options(yield_per=100))
