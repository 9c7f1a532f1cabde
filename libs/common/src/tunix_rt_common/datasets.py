"""Dataset versions as they lie in the artifact store: rows in JSONL shards, and the manifest that lists them.

The registry writes them, trainer and evaluator read them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from tunix_rt_common.chat import completion
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import DatasetSpec, Name, Seed
from tunix_rt_common.traces import Rejected, Step, Trace, TraceRecord, canonical_json

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MAX_COUNTED_VALUES = 100

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class DatasetRow(TraceRecord):
    """One trace in a dataset: `row_id` is its content's hash, `group` its prompt's, which one split holds whole."""

    row_id: Sha256
    prompt: str
    steps: tuple[Step, ...]
    final_answer: str
    meta: dict[str, Any] | None = None
    group: Sha256
    rejected: Rejected = None

    def trace(self) -> Trace:
        """Return the trace that this row was made from (its `trace_version` apart)."""
        return Trace(
            prompt=self.prompt,
            steps=self.steps,
            final_answer=self.final_answer,
            meta=self.meta,
            rejected=self.rejected,
        )

    def line(self) -> bytes:
        """Return the row as a line of a shard: canonical JSON and a line feed."""
        return canonical_json(self.model_dump()) + b"\n"


class ShardEntry(TraceRecord):
    """One JSONL file of a dataset; `path` is its name, below no folder."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
    split: Split
    rows: Annotated[int, Field(ge=1)]
    size_bytes: Annotated[int, Field(ge=1)]
    sha256: Sha256


class SplitCounts(TraceRecord):
    """How many rows a split has, how many groups (distinct prompts), and how many rows are preference pairs."""

    rows: Count = 0
    groups: Count = 0
    pairs: Count = 0


class Spread(TraceRecord):
    """Mean, median, 95th percentile (nearest rank) and maximum of a count over all rows."""

    mean: float
    p50: Count
    p95: Count
    max: Count


class DatasetStatistics(TraceRecord):
    """What the rows look like. The counts by value hold the 100 most frequent values.

    `completion_chars` counts the whole completion: reasoning, think tags and final answer.
    """

    rows: Count
    groups: Count
    steps: Spread
    prompt_chars: Spread
    completion_chars: Spread
    step_types: dict[str, int]
    categories: dict[str, int]
    sources: dict[str, int]


class Provenance(TraceRecord):
    """Where the rows came from: enough to build the same dataset again."""

    trace_count: Count
    selection_sha256: Sha256
    filters: dict[str, str]
    seed: Seed
    code_version: str


class DatasetManifest(TraceRecord):
    """A dataset version. `dataset_sha256` is over its shards alone, so equal data has an equal digest at any time."""

    schema_version: Literal["1"] = "1"
    name: Name
    version: Annotated[int, Field(ge=1)] | None = None
    spec: DatasetSpec
    shards: tuple[ShardEntry, ...]
    dataset_sha256: Sha256
    splits: dict[Split, SplitCounts]
    statistics: DatasetStatistics
    provenance: Provenance
    created_at: AwareDatetime

    @model_validator(mode="after")
    def _digest_is_of_the_shards(self) -> "DatasetManifest":
        if self.dataset_sha256 != dataset_digest(self.shards):
            raise ValueError("dataset_sha256 is not the digest of the shards: the manifest was changed, build it anew")
        return self


class StatisticsTally:
    """Collects `DatasetStatistics` row by row; memory grows with distinct values, not with rows."""

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()
        self._prompt_chars: Counter[int] = Counter()
        self._completion_chars: Counter[int] = Counter()
        self._step_types: Counter[str] = Counter()
        self._categories: Counter[str] = Counter()
        self._sources: Counter[str] = Counter()

    def add(self, row: DatasetRow) -> None:
        """Count one row; `meta.category` and `meta.source` count where they are text."""
        self._steps[len(row.steps)] += 1
        self._prompt_chars[len(row.prompt)] += 1
        self._completion_chars[len(completion(row.trace(), "trace"))] += 1
        self._step_types.update(step.type for step in row.steps)
        for counter, key in ((self._categories, "category"), (self._sources, "source")):
            value = (row.meta or {}).get(key)
            if isinstance(value, str):
                counter[value] += 1

    def result(self, *, groups: int) -> DatasetStatistics:
        """Return the statistics of at least one row."""
        return DatasetStatistics(
            rows=self._steps.total(),
            groups=groups,
            steps=_spread(self._steps),
            prompt_chars=_spread(self._prompt_chars),
            completion_chars=_spread(self._completion_chars),
            step_types=dict(self._step_types.most_common(MAX_COUNTED_VALUES)),
            categories=dict(self._categories.most_common(MAX_COUNTED_VALUES)),
            sources=dict(self._sources.most_common(MAX_COUNTED_VALUES)),
        )


def row_from_trace(trace: Trace) -> DatasetRow:
    """Return the row of a stored trace."""
    return DatasetRow(
        row_id=trace.content_sha256(),
        prompt=trace.prompt,
        steps=trace.steps,
        final_answer=trace.final_answer,
        meta=trace.meta,
        group=trace.prompt_sha256(),
        rejected=trace.rejected,
    )


def read_rows(lines: Iterable[str | bytes]) -> Iterator[DatasetRow]:
    """Yield the rows of a shard.

    Raises:
        UnusableData: a line is not a row; the message names the line.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield DatasetRow.model_validate_json(line)
        except ValidationError as error:
            raise UnusableData(
                f"line {number} of the shard is not a dataset row: it was damaged or written by another version; "
                "build the dataset again"
            ) from error


def dataset_digest(shards: Iterable[ShardEntry]) -> str:
    """Hex sha256 over split and sha256 of each shard, in order: the name of the data itself."""
    listed = [[shard.split, shard.sha256] for shard in shards]
    return hashlib.sha256(canonical_json(listed)).hexdigest()


def _spread(counts: Counter[int]) -> Spread:
    total = counts.total()
    return Spread(
        mean=sum(value * count for value, count in counts.items()) / total,
        p50=_nearest_rank(counts, 50),
        p95=_nearest_rank(counts, 95),
        max=max(counts),
    )


def _nearest_rank(counts: Counter[int], percent: int) -> int:
    """Return the smallest value that at least `percent` of all values do not exceed."""
    remaining = -(-counts.total() * percent // 100)
    for value in sorted(counts):
        remaining -= counts[value]
        if remaining <= 0:
            return value
    raise ValueError("a percentile of no values")
