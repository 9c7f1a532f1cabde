"""What the registry does for each kind of job. All of it is short and needs no JAX, so the worker does it itself."""

from typing import Any

from sqlalchemy.orm import Session

from tunix_rt_common.db.models import DatasetRecord
from tunix_rt_common.messages import JobKind
from tunix_rt_common.pipeline import Claim, NewJob, tell
from tunix_rt_common.supervisor import ShortJob
from tunix_rt_common.world import World
from tunix_rt_registry import datasets, versions


def build_dataset(world: World, claim: Claim) -> dict[str, Any]:
    """Select, split, shard and store."""
    assert claim.dataset_id  # noqa: S101
    return datasets.build(world, claim.dataset_id)


def publish_dataset(_: World, session: Session, claim: Claim, result: dict[str, Any]) -> list[NewJob]:
    """Make the built version visible."""
    dataset = session.get_one(DatasetRecord, claim.dataset_id)
    dataset.manifest_sha256, dataset.dataset_sha256 = result["manifest_sha256"], result["dataset_sha256"]
    return []


def describe_version(_: World, claim: Claim) -> dict[str, Any]:
    """Registering is one transaction: all of it happens in `register_version`."""
    return dict(claim.payload)


def register_version(_: World, session: Session, claim: Claim, result: dict[str, Any]) -> list[NewJob]:
    """Register the run's model, and move its alias where the gate allows it."""
    outcome = versions.register(session, claim, result)
    tell(session, claim, "registered", outcome.words, {"version": outcome.version, "promoted": outcome.promoted})
    return []


JOBS: dict[JobKind, ShortJob] = {
    "build_dataset": ShortJob(build_dataset, publish_dataset),
    "register": ShortJob(describe_version, register_version),
}
