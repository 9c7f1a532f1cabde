"""Datasets over HTTP."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response, status
from fastapi.responses import StreamingResponse
from sqlalchemy import select

from tunix_rt_api.bodies import JsonRoute
from tunix_rt_api.datasets import service
from tunix_rt_api.datasets.schemas import DatasetDetail, DatasetOut, PreviewRow
from tunix_rt_api.deps import Cursor, Limit, ReadingDep, ServicesDep
from tunix_rt_api.idempotency import IdempotencyKey, once
from tunix_rt_api.pages import Page, newest_first
from tunix_rt_common.chat import DEFAULT_TEMPLATE, ChatTemplate
from tunix_rt_common.db.models import DatasetRecord
from tunix_rt_common.preview import preview
from tunix_rt_common.specs import DatasetSpec, Target

router = APIRouter(prefix="/datasets", tags=["datasets"], route_class=JsonRoute)
Split = Literal["train", "validation", "test"]


@router.post("", status_code=status.HTTP_202_ACCEPTED)
def build_dataset(
    spec: DatasetSpec, services: ServicesDep, response: Response, key: IdempotencyKey = None
) -> DatasetOut:
    """Accept the build of a new version; watch its state until it has succeeded."""
    with services.database.transaction() as session:
        shown = once(session, key, spec, DatasetOut, lambda: service.show(session, service.accept_build(session, spec)))
    response.headers["Location"] = f"/api/v1/datasets/{shown.dataset_id}"
    return shown


@router.get("")
def list_datasets(session: ReadingDep, cursor: Cursor = None, limit: Limit = 50) -> Page[DatasetOut]:
    """Dataset versions, newest first."""
    return newest_first(
        session, select(DatasetRecord), DatasetRecord.id, cursor, limit, lambda row: service.show(session, row)
    )


@router.get("/{dataset_id}")
def get_dataset(dataset_id: str, session: ReadingDep, services: ServicesDep) -> DatasetDetail:
    """One version, by id, NAME@VERSION or NAME."""
    return service.show_detail(session, services.store, service.find_dataset(session, dataset_id))


@router.get("/{dataset_id}/export.jsonl")
def export_dataset(
    dataset_id: str, session: ReadingDep, services: ServicesDep, split: Split | None = None
) -> StreamingResponse:
    """Every row, one JSON object a line."""
    dataset = service.find_dataset(session, dataset_id)
    manifest = service.read_manifest(services.store, dataset)
    name = f"{dataset.name}-{dataset.version}{'-' + split if split else ''}.jsonl"
    return StreamingResponse(
        service.lines(services.store, manifest, split),
        media_type="application/x-ndjson",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.get("/{dataset_id}/preview")
def preview_dataset(
    dataset_id: str,
    session: ReadingDep,
    services: ServicesDep,
    target: Target = "trace",
    split: Split = "train",
    limit: Annotated[int, Query(ge=1, le=50)] = 5,
) -> list[PreviewRow]:
    """The first rows as chat text, and which part of it the loss counts."""
    manifest = service.read_manifest(services.store, service.find_dataset(session, dataset_id))
    rows = service.first_rows(services.store, manifest, split, limit)
    shown = preview({split: rows}, ChatTemplate(DEFAULT_TEMPLATE), target, rows_per_split=limit)
    return [PreviewRow.model_validate(row) for row in shown]
