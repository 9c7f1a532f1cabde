import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tunix_rt_common.datasets import (
    DatasetManifest,
    Provenance,
    ShardEntry,
    SplitCounts,
    StatisticsTally,
    dataset_digest,
    read_rows,
    row_from_trace,
)
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.traces import Trace

TRACE = Trace.model_validate(
    {
        "prompt": " 1+1= ",
        "steps": [{"i": 0, "type": "add", "content": "é"}],
        "final_answer": "2",
        "meta": {"category": "sum", "source": "here"},
    }
)
SHARDS = (
    ShardEntry(path="train-00000.jsonl", split="train", rows=1, size_bytes=9, sha256="a" * 64),
    ShardEntry(path="test-00000.jsonl", split="test", rows=1, size_bytes=9, sha256="b" * 64),
)


def with_length(length: int) -> Trace:
    return TRACE.model_copy(update={"prompt": "p" * length})


def manifest(**changes: object) -> DatasetManifest:
    tally = StatisticsTally()
    tally.add(row_from_trace(TRACE))
    provenance = Provenance(trace_count=1, selection_sha256="c" * 64, filters={}, seed=0, code_version="1")
    fields = {
        "name": "sums",
        "spec": DatasetSpec(name="sums"),
        "shards": SHARDS,
        "dataset_sha256": dataset_digest(SHARDS),
        "splits": {"train": SplitCounts(rows=1, groups=1)},
        "statistics": tally.result(groups=1),
        "provenance": provenance,
        "created_at": datetime(2025, 1, 1, tzinfo=UTC),
    }
    return DatasetManifest.model_validate(fields | changes)


def test_row_is_read_as_it_was_written_and_gives_its_trace_back():
    row = row_from_trace(TRACE)
    [read] = read_rows([row.line()])
    assert read == row
    assert read.trace() == TRACE
    assert (read.row_id, read.group) == (TRACE.content_sha256(), TRACE.prompt_sha256())


def test_line_of_a_row_names_a_rejected_answer_only_where_there_is_one():
    row = row_from_trace(TRACE)
    assert sorted(json.loads(row.line())) == ["final_answer", "group", "meta", "prompt", "row_id", "steps"]
    rejected = {"steps": [{"i": 0, "type": "add", "content": "two?"}], "final_answer": "3"}
    pair = Trace.model_validate(TRACE.model_dump() | {"rejected": rejected})
    [read] = read_rows([row_from_trace(pair).line()])
    assert read.trace() == pair
    assert read.row_id != row.row_id
    assert read.group == row.group


@pytest.mark.parametrize("damaged", [b"{}\n", b"not json\n", b"\n"])
def test_damaged_line_of_a_shard_is_named(damaged):
    with pytest.raises(UnusableData, match="line 2 of the shard"):
        list(read_rows([row_from_trace(TRACE).line(), damaged]))


def test_statistics_count_rows_lengths_and_words_for_steps():
    tally = StatisticsTally()
    for length in range(1, 21):
        tally.add(row_from_trace(with_length(length)))
    statistics = tally.result(groups=20)
    assert (statistics.rows, statistics.groups) == (20, 20)
    assert statistics.prompt_chars.model_dump() == {"mean": 10.5, "p50": 10, "p95": 19, "max": 20}
    assert statistics.completion_chars.max == len("<think>\né\n</think>\n2")
    assert statistics.step_types == {"add": 20}
    assert (statistics.categories, statistics.sources) == ({"sum": 20}, {"here": 20})


def test_statistics_keep_the_most_frequent_values_only():
    tally = StatisticsTally()
    for name in ["often", "often", *map(str, range(500))]:
        tally.add(row_from_trace(TRACE.model_copy(update={"meta": {"category": name}})))
    categories = tally.result(groups=1).categories
    assert len(categories) == 100
    assert categories["often"] == 2


def test_manifest_survives_its_json():
    assert DatasetManifest.model_validate_json(manifest().model_dump_json()) == manifest()


def test_dataset_digest_depends_on_content_split_and_order_of_the_shards():
    first, second = SHARDS
    digests = {
        dataset_digest(shards)
        for shards in (SHARDS, (second, first), (first,), (first, second.model_copy(update={"split": "validation"})))
    }
    assert len(digests) == 4


def test_dataset_digest_does_not_depend_on_the_time_of_building():
    assert manifest(created_at=datetime(2026, 1, 1, tzinfo=UTC)).dataset_sha256 == manifest().dataset_sha256


@pytest.mark.parametrize("changes", [{"dataset_sha256": "0" * 64}, {"shards": SHARDS[:1]}, {"owner": "me"}])
def test_changed_manifest_is_refused(changes):
    with pytest.raises(ValidationError):
        manifest(**changes)
