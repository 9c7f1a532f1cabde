"""What the evaluation endpoints answer."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from tunix_rt_common.reports import ItemResult, Score, ServedModel, Verdict


class EvaluationOut(BaseModel):
    """A report in short."""

    evaluation_id: UUID
    run_id: UUID
    judge: str
    eval_set_sha256: str
    model_sha256: str
    report_sha256: str
    score: Score
    decision: str
    reason: str
    created_at: datetime


class EvaluationDetail(EvaluationOut):
    """With slices, the whole verdict, and who answered unless it was the evaluator's own engine."""

    slices: dict[str, dict[str, Score]]
    endpoint: ServedModel | None
    verdict: Verdict


class ItemPage(BaseModel):
    """Some predictions, and the offset of the next ones."""

    items: list[ItemResult]
    total: int
    next_offset: int | None


class LeaderboardRow(BaseModel):
    """A registered version with its score."""

    rank: int
    model: str
    version: int
    aliases: list[str]
    score: Score
    decision: str
    judge: str
    eval_set_sha256: str
    evaluation_id: UUID
    run_id: UUID
    created_at: datetime
    provenance: dict[str, Any]
