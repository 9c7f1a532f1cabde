"""Rows into JSONL shards in a directory, hashed while they are written, with the manifest that lists them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from tunix_rt_common.datasets import (
    SPLITS,
    DatasetManifest,
    DatasetRow,
    DatasetStatistics,
    Provenance,
    ShardEntry,
    Split,
    SplitCounts,
    StatisticsTally,
    dataset_digest,
)
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import DatasetSpec


class ShardWriter:
    """Writes rows to `{split}-{number}.jsonl` in a fresh directory, at most one open file and one row held per split.

    Use it in a `with`; `entries` is complete after it.
    """

    def __init__(self, folder: Path, rows_per_shard: int) -> None:
        self._folder = folder
        self._rows_per_shard = rows_per_shard
        self._open: dict[Split, _Shard] = {}
        self._done: list[ShardEntry] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for split in list(self._open):
            self._close(split)

    @property
    def entries(self) -> tuple[ShardEntry, ...]:
        """The closed shards: train, validation, test, each in order of writing."""
        return tuple(sorted(self._done, key=lambda entry: SPLITS.index(entry.split)))

    def add(self, split: Split, row: DatasetRow) -> None:
        """Append a row to its split's shard.

        Raises:
            FileExistsError: the directory already holds a shard of this name.
        """
        if split not in self._open:
            number = sum(entry.split == split for entry in self._done)
            self._open[split] = _Shard(self._folder / f"{split}-{number:05d}.jsonl", split)
        shard = self._open[split]
        shard.write(row.line())
        if shard.rows == self._rows_per_shard:
            self._close(split)

    def _close(self, split: Split) -> None:
        self._done.append(self._open.pop(split).close())


class _Shard:
    """One file being written."""

    def __init__(self, path: Path, split: Split) -> None:
        self._path = path
        self._split = split
        self._file: BinaryIO = path.open("xb")
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self.rows = 0

    def write(self, line: bytes) -> None:
        self._file.write(line)
        self._sha256.update(line)
        self._size_bytes += len(line)
        self.rows += 1

    def close(self) -> ShardEntry:
        self._file.close()
        return ShardEntry(
            path=self._path.name,
            split=self._split,
            rows=self.rows,
            size_bytes=self._size_bytes,
            sha256=self._sha256.hexdigest(),
        )


class RowsTally:
    """What a manifest says of its rows, counted while they pass. Memory is of the order of the groups."""

    def __init__(self) -> None:
        self._statistics = StatisticsTally()
        self._rows = Counter[Split]()
        self._pairs = Counter[Split]()
        self._split_of: dict[str, Split] = {}

    def add(self, split: Split, row: DatasetRow) -> None:
        """Count a row.

        Raises:
            UnusableData: its group was met in another split.
        """
        if self._split_of.setdefault(row.group, split) != split:
            raise UnusableData(
                f"row {row.row_id} is in split {split!r}, and other rows of its prompt in "
                f"{self._split_of[row.group]!r}: build the dataset again, which keeps prompts together"
            )
        self._statistics.add(row)
        self._rows[split] += 1
        self._pairs[split] += row.rejected is not None

    def splits(self) -> dict[Split, SplitCounts]:
        """Rows, groups and pairs of each split."""
        groups = Counter(self._split_of.values())
        return {
            split: SplitCounts(rows=self._rows[split], groups=groups[split], pairs=self._pairs[split])
            for split in SPLITS
        }

    def statistics(self) -> DatasetStatistics:
        """The statistics of at least one row."""
        return self._statistics.result(groups=len(self._split_of))


@dataclass(frozen=True)
class BuiltShards:
    """What one pass over the rows leaves: the shards and all that the manifest says about them."""

    shards: tuple[ShardEntry, ...]
    splits: Mapping[Split, SplitCounts]
    statistics: DatasetStatistics
    selection_sha256: str

    def manifest(
        self, spec: DatasetSpec, *, code_version: str, created_at: datetime, version: int | None = None
    ) -> DatasetManifest:
        """Return the manifest of these shards, built for this spec."""
        return DatasetManifest(
            name=spec.name,
            version=version,
            spec=spec,
            shards=self.shards,
            dataset_sha256=dataset_digest(self.shards),
            splits=dict(self.splits),
            statistics=self.statistics,
            provenance=Provenance(
                trace_count=self.statistics.rows,
                selection_sha256=self.selection_sha256,
                filters=spec.filters,
                seed=spec.seed,
                code_version=code_version,
            ),
            created_at=created_at,
        )


def build_shards(
    rows: Iterable[DatasetRow], splits: Mapping[str, Split], folder: Path, rows_per_shard: int
) -> BuiltShards:
    """Write the rows, in one pass and in their order, to shards of the splits that their groups have.

    Memory is of the order of the groups, not of the rows. `folder` must exist and be empty.

    Raises:
        UnusableData: there are no rows.
    """
    tally, selection = RowsTally(), hashlib.sha256()
    with ShardWriter(folder, rows_per_shard) as writer:
        for row in rows:
            split = splits[row.group]
            writer.add(split, row)
            tally.add(split, row)
            selection.update(f"{row.row_id}\n".encode())
    if not writer.entries:
        raise UnusableData("no trace is selected: import traces first, or loosen the dataset's filters")
    return BuiltShards(
        shards=writer.entries,
        splits=tally.splits(),
        statistics=tally.statistics(),
        selection_sha256=selection.hexdigest(),
    )
