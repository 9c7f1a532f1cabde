"""Accepting dataset builds, and finding what was built."""

import itertools
from collections.abc import Iterator
from uuid import UUID

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from tunix_rt_api.datasets.schemas import DatasetDetail, DatasetOut
from tunix_rt_common import pipeline, telemetry
from tunix_rt_common.datasets import DatasetManifest, DatasetRow
from tunix_rt_common.db.models import DatasetRecord, JobRecord, TraceRow
from tunix_rt_common.errors import Conflict, InvalidInput, NotFound
from tunix_rt_common.ids import new_id, storable_name
from tunix_rt_common.pipeline import NewJob
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.states import JobState
from tunix_rt_common.storage import ArtifactStore


def accept_build(session: Session, spec: DatasetSpec) -> DatasetRecord:
    """Pin the selection (no trace newer than now) and submit the build."""
    newest = session.scalar(_matching(spec).order_by(TraceRow.id.desc()).limit(1))
    if newest is None:
        wanted = f" with source {spec.filters['source'][:80]!r}" if "source" in spec.filters else ""
        raise InvalidInput(f"there is no trace{wanted}: import some first (tunix-rt traces import)", field="filters")
    latest = session.scalar(select(func.max(DatasetRecord.version)).where(DatasetRecord.name == spec.name))
    dataset = DatasetRecord(
        id=new_id(),
        name=spec.name,
        version=(latest or 0) + 1,
        spec=spec.model_dump(mode="json"),
        newest_trace_id=newest,
    )
    session.add(dataset)
    session.flush()
    pipeline.submit(session, NewJob("build_dataset", dataset_id=dataset.id, traceparent=telemetry.traceparent()))
    return dataset


def find_dataset(session: Session, reference: str) -> DatasetRecord:
    """A dataset by id, NAME@VERSION, or NAME (its newest version)."""
    found = _by_id(session, reference) or _by_name(session, storable_name(reference, "dataset"))
    if found is None:
        raise NotFound(f"no dataset {reference[:200]!r}: GET /api/v1/datasets lists them")
    return found


def built_dataset(session: Session, reference: str, field: str) -> DatasetRecord:
    """A dataset that can be used: its build has succeeded."""
    try:
        dataset = find_dataset(session, reference)
    except NotFound as error:
        raise InvalidInput(str(error), field=field) from None
    if dataset.manifest_sha256 is None:
        job = build_job(session, dataset)
        if job.failure:
            raise InvalidInput(f"{dataset.name}@{dataset.version} could not be built: {job.failure}", field=field)
        raise Conflict(f"{dataset.name}@{dataset.version} is still being built: wait for it, then try again")
    return dataset


def build_job(session: Session, dataset: DatasetRecord) -> JobRecord:
    """The job that builds, or built, a dataset; one that came with a bundle has none."""
    return session.scalars(select(JobRecord).where(JobRecord.dataset_id == dataset.id)).one()


def read_manifest(store: ArtifactStore, dataset: DatasetRecord) -> DatasetManifest:
    """A built dataset's manifest; `Conflict` while there is none."""
    if dataset.manifest_sha256 is None:
        raise Conflict(f"{dataset.name}@{dataset.version} has not been built: look at its state")
    return store.get_document(DatasetManifest, dataset.manifest_sha256)


def show(session: Session, dataset: DatasetRecord) -> DatasetOut:
    """A dataset as lists show it."""
    job = None if dataset.manifest_sha256 else build_job(session, dataset)
    return DatasetOut(
        dataset_id=dataset.id,
        name=dataset.name,
        version=dataset.version,
        state=JobState(job.state) if job else JobState.SUCCEEDED,
        failure=job.failure if job else None,
        dataset_sha256=dataset.dataset_sha256,
        manifest_sha256=dataset.manifest_sha256,
        spec=DatasetSpec.model_validate(dataset.spec),
        created_at=dataset.created_at,
    )


def show_detail(session: Session, store: ArtifactStore, dataset: DatasetRecord) -> DatasetDetail:
    """A dataset with its manifest."""
    manifest = read_manifest(store, dataset).model_dump(mode="json") if dataset.manifest_sha256 else None
    return DatasetDetail(**show(session, dataset).model_dump(), manifest=manifest)


def lines(store: ArtifactStore, manifest: DatasetManifest, split: str | None) -> Iterator[bytes]:
    """The rows as JSON lines, shard after shard, each shard verified as it streams."""
    for shard in manifest.shards:
        if split in {None, shard.split}:
            yield from store.stream(shard.sha256)


def first_rows(store: ArtifactStore, manifest: DatasetManifest, split: str, count: int) -> list[DatasetRow]:
    """The first rows of a split, without reading more of the store than they take."""
    shard = next((shard for shard in manifest.shards if shard.split == split), None)
    if shard is None:
        return []
    with store.open(shard.sha256) as source:
        return [DatasetRow.model_validate_json(line) for line in itertools.islice(source, count)]


def _matching(spec: DatasetSpec) -> Select[UUID]:
    statement = select(TraceRow.id)
    if "source" in spec.filters:
        statement = statement.where(TraceRow.source == spec.filters["source"])
    return statement


def _by_id(session: Session, reference: str) -> DatasetRecord | None:
    try:
        return session.get(DatasetRecord, UUID(reference))
    except ValueError:
        return None


def _by_name(session: Session, reference: str) -> DatasetRecord | None:
    name, versioned, version = reference.partition("@")
    statement = select(DatasetRecord).where(DatasetRecord.name == name)
    if versioned:
        if not version.isdecimal() or len(version) > 9:
            return None
        statement = statement.where(DatasetRecord.version == int(version))
    return session.scalars(statement.order_by(DatasetRecord.version.desc()).limit(1)).first()
