"""What the run endpoints take and answer."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from tunix_rt_common.specs import RunSpec


class RunOut(BaseModel):
    """A run as lists show it; `bundle_sha256` is set where it was trained elsewhere and imported."""

    run_id: UUID
    state: str
    stage: str
    project: str
    dataset: str
    base_model: str
    model_name: str
    bundle_sha256: str | None
    step: int
    total_steps: int | None
    failure: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobOut(BaseModel):
    """One stage of a run."""

    job_id: UUID
    kind: str
    state: str
    attempt: int
    step: int
    total_steps: int | None
    failure_class: str | None
    failure: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class CheckpointOut(BaseModel):
    """A published checkpoint."""

    step: int
    manifest_sha256: str
    size_bytes: int
    created_at: datetime


class RunDetail(RunOut):
    """A run with everything that was asked, pinned and made."""

    spec: RunSpec
    pins: dict[str, Any]
    jobs: list[JobOut]
    checkpoints: list[CheckpointOut]
    training: dict[str, Any] | None
    evaluation_id: UUID | None
    decision: str | None
    reason: str | None
    model_version: int | None


class EventOut(BaseModel):
    """One line of the story."""

    event_id: int
    at: datetime
    stage: str
    attempt: int
    kind: str
    from_state: str | None
    to_state: str | None
    message: str
    detail: dict[str, Any]


class MetricOut(BaseModel):
    """What one optimizer step measured."""

    step: int
    at: datetime
    numbers: dict[str, float | None]


class LogOut(BaseModel):
    """A piece of what a stage wrote."""

    log_id: int
    at: datetime
    job_id: UUID
    attempt: int
    stream: str
    text: str


class SpanLink(BaseModel):
    """A span that another one refers to: an earlier attempt."""

    trace_id: str
    span_id: str


class SpanOut(BaseModel):
    """What one service did, and when; `offset_s` is its start after that of the trace.

    `status` is `ok`, `error`, or, for an attempt without a span of its own, `running` or `lost`.
    """

    span_id: str
    parent_span_id: str | None
    name: str
    service: str
    started_at: datetime
    duration_s: float
    offset_s: float
    depth: int
    status: str
    attributes: dict[str, Any]
    links: list[SpanLink]


class TraceOut(BaseModel):
    """Where a run's time went: its spans depth first, and by start below one parent."""

    trace_id: str | None
    started_at: datetime | None
    duration_s: float
    spans: list[SpanOut]
