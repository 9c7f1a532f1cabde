"""A dataset version as a folder: `manifest.json` and the shards that it lists.

`tunix-rt datasets pull` writes one, a bundle holds one, and training without a platform reads one. From a file of
traces it is made here by the registry's own rules: equal traces in equal order make equal data.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from tunix_rt_common.datasets import DatasetManifest, DatasetRow, ShardEntry, Split, read_rows, row_from_trace
from tunix_rt_common.errors import InvalidInput, UnusableData
from tunix_rt_common.findings import first_finding
from tunix_rt_common.shards import build_shards
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.splits import assign_splits
from tunix_rt_common.traces import Trace
from tunix_rt_common.version import CODE_VERSION

MANIFEST_FILE = "manifest.json"
ADVICE = "pull it again with `tunix-rt datasets pull`"


def read_manifest(folder: Path) -> DatasetManifest:
    """The manifest in a folder; `InvalidInput` where there is none, or its digest is not that of its shards."""
    path = folder / MANIFEST_FILE
    try:
        return DatasetManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}): {ADVICE}", field="dataset") from error
    except ValidationError as error:
        raise InvalidInput(f"{path} is no dataset manifest ({first_finding(error)}): {ADVICE}") from error


def read_split(folder: Path, manifest: DatasetManifest, split: Split) -> list[DatasetRow]:
    """The rows of a split, in order.

    Raises:
        UnusableData: a shard is missing, or is not the one that the manifest lists.
    """
    shards = [shard for shard in manifest.shards if shard.split == split]
    return [row for shard in shards for row in read_rows(_verified(folder, shard).splitlines())]


def write_dataset(source: Path, spec: DatasetSpec, folder: Path) -> DatasetManifest:
    """Write the dataset of a file of traces, one JSON object a line, to an empty folder, and return its manifest.

    A line is a trace, or a row that `tunix-rt datasets export` wrote. A trace that comes twice counts once.

    Raises:
        UnusableData: a line is neither; the message names it.
    """
    rows = list({row.row_id: row for row in _read_file(source)}.values())
    splits = assign_splits(
        (row.group for row in rows),
        seed=spec.seed,
        validation_fraction=spec.validation_fraction,
        test_fraction=spec.test_fraction,
    )
    built = build_shards(rows, splits, folder, spec.rows_per_shard)
    manifest = built.manifest(spec, code_version=CODE_VERSION, created_at=datetime.now(UTC))
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: DatasetManifest) -> None:
    """Put the manifest beside its shards."""
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")


def _verified(folder: Path, shard: ShardEntry) -> bytes:
    path = folder / shard.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnusableData(f"{path} cannot be read ({error.strerror}): {ADVICE}", field="dataset") from error
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        raise UnusableData(f"{path} is not the shard that the manifest lists: {ADVICE}", field="dataset")
    return content


def _read_file(source: Path) -> Iterator[DatasetRow]:
    try:
        with source.open("rb") as lines:
            yield from _rows(lines, source.name)
    except OSError as error:
        raise InvalidInput(
            f"{source} cannot be read ({error.strerror}): give a file of traces", field="dataset"
        ) from error


def _rows(lines: Iterable[bytes], name: str) -> Iterator[DatasetRow]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield row_from_trace(_trace(line))
            except ValidationError as error:
                words = f"is no trace ({first_finding(error)}): correct or remove it"
                raise UnusableData(f"{name} line {number} {words}", field="dataset") from error
            except ValueError as error:
                words = f"is not JSON ({error}): correct or remove it"
                raise UnusableData(f"{name} line {number} {words}", field="dataset") from error


def _trace(line: bytes) -> Trace:
    """The trace of a line; `ValidationError` when it is none, another `ValueError` when it is not JSON."""
    record = json.loads(line)
    if isinstance(record, dict) and "row_id" in record:
        return DatasetRow.model_validate(record).trace()
    return Trace.model_validate(record)
