"""What the dataset endpoints answer."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from tunix_rt_common.specs import DatasetSpec


class DatasetOut(BaseModel):
    """A dataset version; digest and manifest are there once its build has succeeded."""

    dataset_id: UUID
    name: str
    version: int
    state: str
    failure: str | None
    dataset_sha256: str | None
    manifest_sha256: str | None
    spec: DatasetSpec
    created_at: datetime


class DatasetDetail(DatasetOut):
    """With the manifest (shards, splits, statistics, provenance)."""

    manifest: dict[str, Any] | None


class PreviewRow(BaseModel):
    """One row as a model will see it; trained segments are what the loss counts."""

    row_id: str
    split: str
    text: str
    segments: list[dict[str, Any]]
