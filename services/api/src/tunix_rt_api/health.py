"""Is the process alive, and can it serve?"""

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import text

from tunix_rt_api.deps import ServicesDep
from tunix_rt_common.version import CODE_VERSION

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """Alive."""

    status: str = "ok"
    version: str = CODE_VERSION


@router.get("/healthz")
def healthz() -> Health:
    """Whether the process answers."""
    return Health()


@router.get("/readyz")
def readyz(services: ServicesDep) -> Health:
    """Whether the database answers too; 503 when not."""
    with services.database.reading() as session:
        session.execute(text("SELECT 1"))
    return Health()
