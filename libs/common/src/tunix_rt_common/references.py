"""Which blobs the database's rows refer to, directly and through manifests: what the garbage collector leaves alone.

Marking is generous. Every digest in a row's documents counts, whatever it means there, and every digest in a manifest;
what is marked too much is kept, what is marked too little would be lost.
"""

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select

from tunix_rt_common.db.models import (
    CheckpointRecord,
    DatasetRecord,
    EvaluationRecord,
    JobRecord,
    ModelVersionRecord,
    RunRecord,
)
from tunix_rt_common.db.session import Database
from tunix_rt_common.errors import NotFound, Unavailable
from tunix_rt_common.storage.base import SHA256, ArtifactStore

MANIFESTS = (
    CheckpointRecord.manifest_sha256,
    DatasetRecord.manifest_sha256,
    EvaluationRecord.model_sha256,
    ModelVersionRecord.manifest_sha256,
    RunRecord.bundle_sha256,
)
BLOBS = (EvaluationRecord.report_sha256, EvaluationRecord.verdict_sha256, RunRecord.logs_sha256)
DOCUMENTS = (JobRecord.payload, JobRecord.result, ModelVersionRecord.provenance, RunRecord.pins)
MANIFEST_KEY = "manifest_sha256"
BATCH = 1000


def referenced(database: Database, store: ArtifactStore) -> set[bytes]:
    """The 32-byte digests of all blobs that rows refer to now.

    The rows are read at one moment, without touching the store; then every manifest is.

    Raises:
        Unavailable: a manifest cannot be read, so nobody knows what it lists: delete nothing.
    """
    kept, manifests = _named(database)
    gone: set[bytes] = set()
    for manifest in manifests:
        try:
            kept.update(bytes.fromhex(sha256) for _, sha256 in _digests(json.loads(store.read(manifest.hex()))))
        except NotFound:
            gone.add(manifest)
    if gone:
        _check_forgotten(database, gone)
    return kept


def _check_forgotten(database: Database, gone: set[bytes]) -> None:
    """Another collector may have deleted a row and its manifest since the rows were read; a row still there may not."""
    if lost := gone & _named(database)[1]:
        raise Unavailable(
            f"manifest {min(lost).hex()}, which rows refer to, is gone from the store: restore it from a backup; "
            "until then no blob is deleted"
        )


def _named(database: Database) -> tuple[set[bytes], set[bytes]]:
    """All digests in rows, and those of them that are manifests."""
    digests: set[bytes] = set()
    manifests: set[bytes] = set()
    for name, sha256 in _in_rows(database):
        digests.add(bytes.fromhex(sha256))
        if name == MANIFEST_KEY:
            manifests.add(bytes.fromhex(sha256))
    return digests, manifests


def _in_rows(database: Database) -> Iterator[tuple[str, str]]:
    """Digests, each with the name that it has in its document."""
    with database.reading() as session:
        for column in (*MANIFESTS, *BLOBS):
            name = MANIFEST_KEY if column in MANIFESTS else ""
            for sha256 in session.scalars(select(column).execution_options(yield_per=BATCH)):
                yield from _digests(sha256, name)
        for document in DOCUMENTS:
            for value in session.scalars(select(document).execution_options(yield_per=BATCH)):
                yield from _digests(value)


def _digests(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _digests(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _digests(inner, name)
    elif isinstance(value, str) and SHA256.fullmatch(value):
        yield name, value
