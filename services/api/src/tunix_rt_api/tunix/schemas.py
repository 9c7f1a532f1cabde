"""Requests and answers of the earlier system, field for field."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt

DEFAULT_OUTPUT_BYTES = 10 * 1024
MAX_OUTPUT_BYTES = 100 * 1024
Status = Literal["pending", "running", "completed", "failed", "timeout", "cancelled"]
Mode = Literal["dry-run", "local"]


class Request(BaseModel):
    """Base of requests: unknown fields and non-finite numbers are refused by name."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, protected_namespaces=())


class DatasetBuildRequest(Request):
    """Build dataset `{dataset_name}-{dataset_version}` from stored traces."""

    dataset_name: Annotated[str, Field(min_length=1, max_length=128)]
    dataset_version: Annotated[str, Field(min_length=1, max_length=64)]
    filters: dict[str, str] = {}
    limit: Annotated[StrictInt, Field(ge=1, le=10_000)] = 100
    selection_strategy: Literal["latest", "random"] = "latest"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**31)] | None = None


class DatasetBuildResponse(BaseModel):
    """Which dataset is being built; `manifest_path` is where to look at it."""

    dataset_key: str
    build_id: UUID
    trace_count: int
    manifest_path: str


class TunixRunRequest(Request):
    """Train `model_id` on a dataset; a dry run validates and shows the plan."""

    dataset_key: Annotated[str, Field(min_length=1, max_length=256)]
    model_id: Annotated[str, Field(min_length=1, max_length=4096)]
    engine: Literal["jax", "tunix"] = "jax"
    output_dir: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    dry_run: StrictBool = True
    num_epochs: Annotated[StrictInt, Field(ge=1, le=100)] = 3
    learning_rate: Annotated[StrictFloat, Field(gt=0, le=1)] = 2e-5
    batch_size: Annotated[StrictInt, Field(ge=1, le=512)] = 8
    max_seq_length: Annotated[StrictInt, Field(ge=128, le=32_768)] = 2048
    timeout_seconds: Annotated[StrictFloat, Field(gt=0, le=604_800)] | None = None
    max_output_bytes: Annotated[StrictInt, Field(ge=0, le=MAX_OUTPUT_BYTES)] = DEFAULT_OUTPUT_BYTES


class TunixRunResponse(BaseModel):
    """A run; `stdout` and `stderr` are cut at `max_output_bytes`, the whole logs are under `logs_url`."""

    model_config = ConfigDict(protected_namespaces=())
    run_id: UUID
    status: Status
    mode: Mode
    dataset_key: str
    model_id: str
    output_dir: str
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    duration_seconds: float | None = None
    started_at: datetime
    completed_at: datetime | None = None
    message: str
    logs_url: str | None = None


class TunixRunItem(BaseModel):
    """A run as the list shows it."""

    model_config = ConfigDict(protected_namespaces=())
    run_id: UUID
    dataset_key: str
    model_id: str
    mode: Mode
    status: Status
    started_at: datetime
    duration_seconds: float | None


class Pagination(BaseModel):
    """Where the list goes on; null at its end."""

    limit: int
    offset: int
    next_offset: int | None


class TunixRunList(BaseModel):
    """Runs, newest first."""

    data: list[TunixRunItem]
    pagination: Pagination


class TunixStatus(BaseModel):
    """Whether google-tunix is installed; it is never required."""

    available: bool
    version: str | None
    runtime_required: Literal[False] = False
    message: str
