"""Evaluations and the leaderboard over HTTP."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from sqlalchemy import select

from tunix_rt_api.deps import Cursor, Limit, ReadingDep, ServicesDep
from tunix_rt_api.evaluations import service
from tunix_rt_api.evaluations.schemas import EvaluationDetail, EvaluationOut, ItemPage, LeaderboardRow
from tunix_rt_api.pages import Page, newest_first
from tunix_rt_common.db.models import EvaluationRecord

router = APIRouter(tags=["evaluations"])


@router.get("/evaluations")
def list_evaluations(session: ReadingDep, cursor: Cursor = None, limit: Limit = 50) -> Page[EvaluationOut]:
    """Evaluations, newest first."""
    return newest_first(session, select(EvaluationRecord), EvaluationRecord.id, cursor, limit, service.show)


@router.get("/evaluations/{evaluation_id}")
def get_evaluation(evaluation_id: str, session: ReadingDep, services: ServicesDep) -> EvaluationDetail:
    """One evaluation: score, slices, verdict."""
    return service.show_detail(services.store, service.find_evaluation(session, evaluation_id))


@router.get("/evaluations/{evaluation_id}/items")
def get_items(
    evaluation_id: str,
    session: ReadingDep,
    services: ServicesDep,
    outcome: Literal["correct", "wrong", "unscored"] | None = None,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Limit = 50,
) -> ItemPage:
    """Every prediction with its verdict."""
    return service.items(services.store, service.find_evaluation(session, evaluation_id), outcome, offset, limit)


@router.get("/leaderboard")
def get_leaderboard(session: ReadingDep, limit: Limit = 50) -> list[LeaderboardRow]:
    """Registered versions, best first, each with the interval of its score."""
    return service.leaderboard(session, limit)
