"""What endpoints are given: services, sessions, pages of a list."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request
from sqlalchemy.orm import Session

from tunix_rt_common.db.session import Database
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import ArtifactStore


@dataclass(frozen=True)
class Services:
    """The open ports of this process."""

    settings: Settings
    database: Database
    store: ArtifactStore


def services(request: Request) -> Services:
    """The application's services."""
    found: Services = request.app.state.services
    return found


def reading(found: Annotated[Services, Depends(services)]) -> Iterator[Session]:
    """A session to read with, for the length of the request."""
    with found.database.reading() as session:
        yield session


ServicesDep = Annotated[Services, Depends(services)]
ReadingDep = Annotated[Session, Depends(reading, scope="function")]
Limit = Annotated[int, Query(ge=1, le=200, description="items on a page")]
Cursor = Annotated[str | None, Query(max_length=64, description="next_cursor of the page before")]
