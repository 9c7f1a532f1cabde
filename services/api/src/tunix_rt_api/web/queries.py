"""What only the pages ask of the database: counts, the end of a story, a curve of bounded length."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from tunix_rt_api.runs.schemas import MetricOut
from tunix_rt_common.db.models import (
    AliasRecord,
    DatasetRecord,
    EvaluationRecord,
    EventRecord,
    LogRecord,
    MetricRecord,
    ModelVersionRecord,
    RunRecord,
    TraceRow,
)
from tunix_rt_common.reports import Score

MAX_CURVE_ROWS = 1_500
MAX_VALIDATION_ROWS = 150


@dataclass(frozen=True)
class Counts:
    """How much there is."""

    traces: int
    datasets: int
    runs_by_state: Mapping[str, int]
    models: int

    @property
    def runs(self) -> int:
        """Runs of any state."""
        return sum(self.runs_by_state.values())


@dataclass(frozen=True)
class AliasHolder:
    """A version that an alias points to; no score when it was never evaluated."""

    model: str
    alias: str
    version: int
    run_id: UUID
    evaluation_id: UUID | None
    score: Score | None


def counts(session: Session) -> Counts:
    """Everything, counted now."""
    return Counts(
        traces=session.scalar(select(func.count()).select_from(TraceRow)) or 0,
        datasets=session.scalar(select(func.count()).select_from(DatasetRecord)) or 0,
        runs_by_state=runs_by_state(session),
        models=session.scalar(select(func.count(ModelVersionRecord.name.distinct()))) or 0,
    )


def runs_by_state(session: Session) -> dict[str, int]:
    """How many runs are in each state that has any."""
    grouped = select(RunRecord.state, func.count()).group_by(RunRecord.state).order_by(RunRecord.state)
    return dict(session.execute(grouped).all())


def alias_holders(session: Session, limit: int) -> list[AliasHolder]:
    """Who holds an alias, latest move first."""
    joined = (
        select(AliasRecord.alias, ModelVersionRecord, EvaluationRecord.score)
        .join(ModelVersionRecord, ModelVersionRecord.id == AliasRecord.version_id)
        .outerjoin(EvaluationRecord, EvaluationRecord.id == ModelVersionRecord.evaluation_id)
        .order_by(AliasRecord.moved_at.desc())
        .limit(limit)
    )
    return [
        AliasHolder(
            model=version.name,
            alias=alias,
            version=version.version,
            run_id=version.run_id,
            evaluation_id=version.evaluation_id,
            score=Score.model_validate(score) if score else None,
        )
        for alias, version, score in session.execute(joined)
    ]


def before_newest(session: Session, record: type[EventRecord] | type[LogRecord], run_id: UUID, newest: int) -> int:
    """The id after which a run's `newest` records lie; 0 when it has no more than these."""
    earlier = select(record.id).where(record.run_id == run_id).order_by(record.id.desc()).offset(newest).limit(1)
    return session.scalar(earlier) or 0


def curve(session: Session, run_id: UUID, validate_every: int) -> list[MetricOut]:
    """A run's metrics by step, at most about 1,650 rows: every k-th step, and every m-th validation.

    Up to MAX_CURVE_ROWS steps nothing is left out. The newest step is always there.
    """
    last = session.scalar(select(func.max(MetricRecord.step)).where(MetricRecord.run_id == run_id)) or 0
    stride = math.ceil(last / MAX_CURVE_ROWS) or 1
    validation_stride = validate_every * (math.ceil(last / (validate_every * MAX_VALIDATION_ROWS)) or 1)
    step = MetricRecord.step
    chosen = or_(step % stride == 0, step % validation_stride == 0, step == last)
    rows = session.scalars(select(MetricRecord).where(MetricRecord.run_id == run_id, chosen).order_by(step))
    return [MetricOut(step=row.step, at=row.at, numbers=row.numbers) for row in rows]
