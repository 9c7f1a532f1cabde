"""Evaluations and the leaderboard."""

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import BaseModel

from tunix_rt.connection import PAGE_SIZE, Connection, quoted
from tunix_rt.types import Evaluation, EvaluationDetail, Item, LeaderboardRow

Outcome = Literal["correct", "wrong", "unscored"]


class ItemPage(BaseModel):
    """Some items of a report, and the offset of the next ones."""

    items: Sequence[Item]
    next_offset: int | None


class Evaluations:
    """The evaluations of a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, *, limit: int | None = None) -> Iterator[Evaluation]:
        """Evaluations, newest first."""
        return self._connection.pages("/evaluations", Evaluation, limit=limit)

    def get(self, evaluation_id: str) -> EvaluationDetail:
        """One evaluation with slices and verdict."""
        return self._connection.get(f"/evaluations/{quoted(evaluation_id)}", EvaluationDetail)

    def items(self, evaluation_id: str, *, outcome: Outcome | None = None) -> Iterator[Item]:
        """Every prediction with its judgement, or those of one outcome."""
        offset: int | None = 0
        while offset is not None:
            params = {"outcome": outcome, "offset": offset, "limit": PAGE_SIZE}
            page = self._connection.get(f"/evaluations/{quoted(evaluation_id)}/items", ItemPage, params)
            yield from page.items
            offset = page.next_offset

    def leaderboard(self, *, limit: int | None = None) -> Sequence[LeaderboardRow]:
        """Registered versions, best first."""
        return self._connection.get("/leaderboard", tuple[LeaderboardRow, ...], {"limit": limit})
