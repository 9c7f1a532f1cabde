"""The registry as the API shows it."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tunix_rt_api.models.schemas import ModelOut, VersionOut
from tunix_rt_common.db.models import AliasRecord, ModelVersionRecord
from tunix_rt_common.errors import NotFound
from tunix_rt_common.ids import storable_name
from tunix_rt_common.promotion import current_alias, standing_of
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest


def list_models(session: Session, name: str | None = None) -> list[ModelOut]:
    """Models by name, each with its aliases."""
    newest = select(ModelVersionRecord.name, func.max(ModelVersionRecord.version)).group_by(ModelVersionRecord.name)
    if name is not None:
        newest = newest.where(ModelVersionRecord.name == name)
    return [
        ModelOut(name=model, latest_version=latest, aliases=_aliases(session, model))
        for model, latest in session.execute(newest.order_by(ModelVersionRecord.name))
    ]


def find_model(session: Session, name: str) -> ModelOut:
    """One model."""
    found = list_models(session, storable_name(name, "model"))
    if not found:
        raise NotFound(f"no model {name[:64]!r}: GET /api/v1/models lists them")
    return found[0]


def versions(session: Session, name: str, limit: int, before: int | None = None) -> Sequence[ModelVersionRecord]:
    """Versions of a model, newest first, from below version `before` on."""
    find_model(session, name)
    wanted = select(ModelVersionRecord).where(ModelVersionRecord.name == name)
    if before is not None:
        wanted = wanted.where(ModelVersionRecord.version < before)
    return session.scalars(wanted.order_by(ModelVersionRecord.version.desc()).limit(limit)).all()


def find_version(session: Session, name: str, which: str) -> ModelVersionRecord:
    """A version by number or alias."""
    if which.isdecimal() and len(which) <= 9:
        wanted = select(ModelVersionRecord).where(ModelVersionRecord.name == storable_name(name, "model"))
        found = session.scalar(wanted.where(ModelVersionRecord.version == int(which)))
    else:
        found = current_alias(session, storable_name(name, "model"), storable_name(which, "alias"))
    if found is None:
        raise NotFound(f"no model {name[:64]}@{which[:64]}: GET /api/v1/models lists models and their aliases")
    return found


def show(session: Session, store: ArtifactStore, row: ModelVersionRecord) -> VersionOut:
    """A version with its files."""
    standing = standing_of(session, row)
    held = {alias for alias, version in _aliases(session, row.name).items() if version == row.version}
    return VersionOut(
        name=row.name,
        version=row.version,
        aliases=sorted(held),
        manifest_sha256=row.manifest_sha256,
        files=list(store.get_document(FolderManifest, row.manifest_sha256).files),
        run_id=row.run_id,
        evaluation_id=row.evaluation_id,
        decision=standing.decision,
        reason=standing.reason or None,
        metrics=row.metrics,
        provenance=row.provenance,
        created_at=row.created_at,
    )


def _aliases(session: Session, name: str) -> dict[str, int]:
    joined = select(AliasRecord.alias, ModelVersionRecord.version).join(
        ModelVersionRecord, AliasRecord.version_id == ModelVersionRecord.id
    )
    found = session.execute(joined.where(AliasRecord.name == name).order_by(AliasRecord.alias))
    return {alias: version for alias, version in found}  # noqa: C416 - rows are not tuples
