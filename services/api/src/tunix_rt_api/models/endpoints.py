"""Models, versions and aliases over HTTP."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from tunix_rt_api.bodies import JsonRoute
from tunix_rt_api.deps import Limit, ReadingDep, ServicesDep
from tunix_rt_api.models import service
from tunix_rt_api.models.schemas import AliasMove, AliasOut, ModelOut, VersionOut
from tunix_rt_common.errors import NotFound
from tunix_rt_common.promotion import move_alias
from tunix_rt_common.specs import Alias

router = APIRouter(prefix="/models", tags=["models"], route_class=JsonRoute)
AliasName = Annotated[Alias, Path()]


@router.get("")
def list_models(session: ReadingDep) -> list[ModelOut]:
    """Every registered model."""
    return service.list_models(session)


@router.get("/{name}")
def get_model(name: str, session: ReadingDep) -> ModelOut:
    """One model."""
    return service.find_model(session, name)


@router.get("/{name}/versions")
def list_versions(
    name: str,
    session: ReadingDep,
    services: ServicesDep,
    limit: Limit = 50,
    before: Annotated[int | None, Query(ge=1, lt=2**31, description="only versions below this one")] = None,
) -> list[VersionOut]:
    """A model's versions, newest first."""
    return [service.show(session, services.store, row) for row in service.versions(session, name, limit, before)]


@router.get("/{name}/versions/{which}")
def get_version(name: str, which: str, session: ReadingDep, services: ServicesDep) -> VersionOut:
    """A version by number or alias."""
    return service.show(session, services.store, service.find_version(session, name, which))


@router.get("/{name}/versions/{which}/files/{path:path}")
def get_file(name: str, which: str, path: str, session: ReadingDep, services: ServicesDep) -> Response:
    """One file of a version; its sha256 is in the version's list of files. A store that can is asked directly (307)."""
    version = service.show(session, services.store, service.find_version(session, name, which))
    entry = next((entry for entry in version.files if entry.path == path), None)
    if entry is None:
        raise NotFound(f"{name}@{which} has no file {path[:200]!r}: its version lists them")
    if link := services.store.presigned_url(entry.sha256, filename=path.rpartition("/")[2]):
        return RedirectResponse(link)
    return StreamingResponse(
        services.store.stream(entry.sha256),
        media_type="application/octet-stream",
        headers={"Content-Length": str(entry.size_bytes)},
    )


@router.put("/{name}/aliases/{alias}")
def put_alias(name: str, alias: AliasName, move: AliasMove, services: ServicesDep) -> AliasOut:
    """Move an alias: 409 when it is not where the caller believes, 403 without a passing verdict."""
    with services.database.transaction() as session:
        target = service.find_version(session, name, str(move.version))
        move_alias(session, alias, target, expected_version=move.expected_version, reason="moved by request")
    return AliasOut(name=name, alias=alias, version=move.version)
