"""What the model endpoints take and answer."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from tunix_rt_common.reports import FileEntry


class ModelOut(BaseModel):
    """A model: its newest version and who holds which alias."""

    name: str
    latest_version: int
    aliases: dict[str, int]


class VersionOut(BaseModel):
    """A version with its artifacts and full provenance."""

    name: str
    version: int
    aliases: list[str]
    manifest_sha256: str
    files: list[FileEntry]
    run_id: UUID
    evaluation_id: UUID | None
    decision: str | None
    reason: str | None
    metrics: dict[str, Any]
    provenance: dict[str, Any]
    created_at: datetime


class AliasMove(BaseModel):
    """Which version an alias shall point to, and where the caller believes it points now (null: nowhere)."""

    model_config = ConfigDict(extra="forbid")
    version: Annotated[int, Field(ge=1, lt=2**31, strict=True)]
    expected_version: Annotated[int, Field(ge=1, lt=2**31, strict=True)] | None


class AliasOut(BaseModel):
    """Where an alias points."""

    name: str
    alias: str
    version: int
