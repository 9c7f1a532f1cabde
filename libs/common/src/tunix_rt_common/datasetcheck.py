"""Does a dataset hold what its manifest says? Asked of what was made elsewhere, before it is taken in."""

import hashlib
from collections.abc import Callable, Iterable, Iterator

from tunix_rt_common.datasets import DatasetManifest, DatasetRow, ShardEntry, read_rows
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.shards import RowsTally

ADVICE = "build or export the dataset again"

ShardLines = Callable[[ShardEntry], Iterable[bytes]]


def check_dataset(manifest: DatasetManifest, lines_of: ShardLines) -> None:
    """Read every row once and compare shards, rows, splits and statistics with the manifest.

    `lines_of` gives the lines of a shard, each with its line feed. How often a value occurs is not compared: where
    many do, the manifest's choice of them depends on an order that shards do not keep.

    Raises:
        UnusableData: a shard, a row or a number differs; `field` names the shard or the manifest's field.
    """
    tally = RowsTally()
    for shard in manifest.shards:
        for row in _rows(shard, lines_of(shard)):
            tally.add(shard.split, row)
    if not manifest.shards:
        raise UnusableData(f"the manifest lists no shards: {ADVICE}", field="shards")
    if tally.splits() != manifest.splits:
        raise UnusableData(f"splits of the manifest are not those of its rows: {ADVICE}", field="splits")
    found = tally.statistics()
    for name in ("rows", "groups", "steps", "prompt_chars", "completion_chars"):
        if getattr(found, name) != getattr(manifest.statistics, name):
            raise UnusableData(
                f"statistics.{name} of the manifest is not what its rows come to: {ADVICE}", field=f"statistics.{name}"
            )


def _rows(shard: ShardEntry, lines: Iterable[bytes]) -> Iterator[DatasetRow]:
    digest, size_bytes, count = hashlib.sha256(), 0, 0
    for line in lines:
        digest.update(line)
        size_bytes += len(line)
        count += 1
        yield _row(shard, count, line)
    if (digest.hexdigest(), size_bytes, count) != (shard.sha256, shard.size_bytes, shard.rows):
        raise UnusableData(
            f"{shard.path} is not the shard that the manifest lists ({count} rows of {shard.rows}, {size_bytes} bytes "
            f"of {shard.size_bytes}): it was changed or cut; {ADVICE}",
            field=shard.path,
        )


def _row(shard: ShardEntry, number: int, line: bytes) -> DatasetRow:
    try:
        [row] = read_rows([line])
    except UnusableData:
        row = None
    if row is None or row.line() != line:
        raise UnusableData(f"{shard.path} line {number} is not a dataset row: {ADVICE}", field=shard.path)
    trace = row.trace()
    if (row.row_id, row.group) != (trace.content_sha256(), trace.prompt_sha256()):
        raise UnusableData(
            f"{shard.path} line {number} has a row_id or group that is not the hash of its content: {ADVICE}",
            field=shard.path,
        )
    return row
