"""What the trace endpoints answer."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel

from tunix_rt_common.traces import Trace

TraceFormat = Literal["auto", "native", "gsm8k", "messages", "prompt-completion", "preference"]


class TraceAccepted(BaseModel):
    """A stored trace; `duplicate` when it was there already."""

    trace_id: UUID
    content_sha256: str
    duplicate: bool


class TraceOut(BaseModel):
    """A trace as it is stored."""

    trace_id: UUID
    content_sha256: str
    source: str | None
    created_at: datetime
    trace: Trace


class RejectedLine(BaseModel):
    """A line that was not imported, and why."""

    line: int
    error: str


class BatchOutcome(BaseModel):
    """What became of an import. At most 10,000 rejected lines are listed; `rejected_count` counts all."""

    accepted: int = 0
    duplicates: int = 0
    rejected_count: int = 0
    rejected: list[RejectedLine] = []
