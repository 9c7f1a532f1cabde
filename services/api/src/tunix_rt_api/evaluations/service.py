"""Reports, their items, and the leaderboard."""

from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunix_rt_api.evaluations.schemas import EvaluationDetail, EvaluationOut, ItemPage, LeaderboardRow
from tunix_rt_common.db.models import AliasRecord, EvaluationRecord, ModelVersionRecord
from tunix_rt_common.errors import NotFound
from tunix_rt_common.ids import parse_id
from tunix_rt_common.reports import EvalReport, Score, Verdict
from tunix_rt_common.storage import ArtifactStore


def find_evaluation(session: Session, evaluation_id: str) -> EvaluationRecord:
    """One evaluation."""
    found = session.get(EvaluationRecord, parse_id(evaluation_id, "evaluation"))
    if found is None:
        raise NotFound(f"no evaluation {evaluation_id}: GET /api/v1/evaluations lists them")
    return found


def show(row: EvaluationRecord) -> EvaluationOut:
    """An evaluation as lists show it."""
    return EvaluationOut(
        evaluation_id=row.id,
        run_id=row.run_id,
        judge=row.judge,
        eval_set_sha256=row.eval_set_sha256,
        model_sha256=row.model_sha256,
        report_sha256=row.report_sha256,
        score=Score.model_validate(row.score),
        decision=row.decision,
        reason=row.reason,
        created_at=row.created_at,
    )


def show_detail(store: ArtifactStore, row: EvaluationRecord) -> EvaluationDetail:
    """With slices and verdict, from the store."""
    report = store.get_document(EvalReport, row.report_sha256)
    verdict = store.get_document(Verdict, row.verdict_sha256)
    return EvaluationDetail(**show(row).model_dump(), slices=report.slices, endpoint=report.endpoint, verdict=verdict)


def items(store: ArtifactStore, row: EvaluationRecord, outcome: str | None, offset: int, limit: int) -> ItemPage:
    """Every prediction with its verdict, or those of one outcome."""
    report = store.get_document(EvalReport, row.report_sha256)
    wanted = [item for item in report.items if outcome in {None, item.outcome}]
    end = offset + limit
    return ItemPage(items=wanted[offset:end], total=len(wanted), next_offset=end if end < len(wanted) else None)


def leaderboard(session: Session, limit: int) -> list[LeaderboardRow]:
    """Registered versions by accuracy; what was judged on other items is not comparable and says so by its digest."""
    joined = select(ModelVersionRecord, EvaluationRecord).join(
        EvaluationRecord, EvaluationRecord.id == ModelVersionRecord.evaluation_id
    )
    best = joined.order_by(EvaluationRecord.accuracy.desc().nulls_last(), ModelVersionRecord.id).limit(limit)
    aliases = _aliases(session)
    return [
        _row(rank, version, evaluation, aliases[version.id])
        for rank, (version, evaluation) in enumerate(session.execute(best), start=1)
    ]


def _row(
    rank: int, version: ModelVersionRecord, evaluation: EvaluationRecord, aliases: Sequence[str]
) -> LeaderboardRow:
    return LeaderboardRow(
        rank=rank,
        model=version.name,
        version=version.version,
        aliases=sorted(aliases),
        score=Score.model_validate(evaluation.score),
        decision=evaluation.decision,
        judge=evaluation.judge,
        eval_set_sha256=evaluation.eval_set_sha256,
        evaluation_id=evaluation.id,
        run_id=version.run_id,
        created_at=version.created_at,
        provenance=version.provenance,
    )


def _aliases(session: Session) -> dict[UUID, list[str]]:
    held: dict[UUID, list[str]] = defaultdict(list)
    for row in session.scalars(select(AliasRecord)):
        held[row.version_id].append(row.alias)
    return held
