"""Pages of a list, by cursor: the id of the last item seen."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

from tunix_rt_common.errors import InvalidInput

Item = TypeVar("Item", bound=BaseModel)
Row = TypeVar("Row")


class Page(BaseModel, Generic[Item]):
    """Some items, and where the next ones begin; no cursor on the last page."""

    items: Sequence[Item]
    next_cursor: str | None = None


def newest_first(
    session: Session,
    statement: Select[Row],
    key: InstrumentedAttribute[UUID],
    cursor: str | None,
    limit: int,
    show: Callable[[Row], Item],
) -> Page[Item]:
    """A page of rows whose ids sort by time."""
    if cursor is not None:
        statement = statement.where(key < _cursor_id(cursor))
    rows = session.scalars(statement.order_by(key.desc()).limit(limit + 1)).all()
    last = rows[limit - 1] if len(rows) > limit else None
    next_cursor = str(getattr(last, key.key)) if last is not None else None
    return Page(items=[show(row) for row in rows[:limit]], next_cursor=next_cursor)


def _cursor_id(cursor: str) -> UUID:
    try:
        return UUID(cursor)
    except ValueError:
        raise InvalidInput("cursor: not one of ours; send next_cursor of the page before", field="cursor") from None
