import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tunix_rt_common.datasets import DatasetRow, read_rows, row_from_trace
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.shards import BuiltShards, ShardWriter, build_shards
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.traces import Trace


def row(number: int) -> DatasetRow:
    record = {
        "prompt": f"{number // 2}=",
        "steps": [{"i": 0, "type": "a", "content": str(number)}],
        "final_answer": str(number),
        "meta": {"z": 1, "a": "é"},
    }
    return row_from_trace(Trace.model_validate(record))


ROWS = [row(number) for number in range(10)]
SPLITS = dict.fromkeys((row.group for row in ROWS), "train") | {ROWS[2].group: "test"}


def build(folder: Path, rows: list[DatasetRow] = ROWS) -> BuiltShards:
    folder.mkdir(exist_ok=True)
    return build_shards(iter(rows), SPLITS, folder, rows_per_shard=3)


def test_shards_hold_every_row_once_in_its_split_and_in_order(tmp_path):
    built = build(tmp_path)
    read = {"train": [], "test": []}
    for shard in built.shards:
        read[shard.split] += read_rows((tmp_path / shard.path).read_bytes().splitlines())
    assert read == {"train": ROWS[:2] + ROWS[4:], "test": ROWS[2:4]}


def test_pairs_are_counted_by_split(tmp_path):
    rejected = {"steps": [{"i": 0, "type": "a", "content": "no"}], "final_answer": "none"}
    pairs = [
        row_from_trace(Trace.model_validate(row.trace().model_dump() | {"rejected": rejected})) for row in ROWS[1:4]
    ]
    built = build(tmp_path, [ROWS[0], *pairs, *ROWS[4:]])
    assert {split: counts.pairs for split, counts in built.splits.items()} == {"train": 1, "validation": 0, "test": 2}


def test_shard_entries_describe_the_files(tmp_path):
    built = build(tmp_path)
    assert [(shard.path, shard.rows) for shard in built.shards] == [
        ("train-00000.jsonl", 3),
        ("train-00001.jsonl", 3),
        ("train-00002.jsonl", 2),
        ("test-00000.jsonl", 2),
    ]
    for shard in built.shards:
        content = (tmp_path / shard.path).read_bytes()
        assert shard.sha256 == hashlib.sha256(content).hexdigest()
        assert shard.size_bytes == len(content)
    assert {shard.path for shard in built.shards} == {path.name for path in tmp_path.iterdir()}


def test_full_shard_is_not_followed_by_an_empty_one(tmp_path):
    with ShardWriter(tmp_path, rows_per_shard=2) as writer:
        writer.add("train", ROWS[0])
        writer.add("train", ROWS[1])
    assert [entry.rows for entry in writer.entries] == [2]
    assert len(list(tmp_path.iterdir())) == 1


def test_shards_of_an_earlier_build_are_not_overwritten(tmp_path):
    build(tmp_path)
    with pytest.raises(FileExistsError):
        build(tmp_path)


def test_manifest_counts_rows_and_groups_of_each_split(tmp_path):
    spec = DatasetSpec(name="sums", filters={"source": "here"}, seed=3)
    manifest = build(tmp_path).manifest(spec, code_version="abc", created_at=datetime(2025, 1, 1, tzinfo=UTC))
    counts = {split: (count.rows, count.groups) for split, count in manifest.splits.items()}
    assert counts == {"train": (8, 4), "validation": (0, 0), "test": (2, 1)}
    assert (manifest.statistics.rows, manifest.statistics.groups) == (10, 5)
    assert manifest.provenance.model_dump() == {
        "trace_count": 10,
        "selection_sha256": hashlib.sha256("".join(f"{row.row_id}\n" for row in ROWS).encode()).hexdigest(),
        "filters": {"source": "here"},
        "seed": 3,
        "code_version": "abc",
    }


def test_same_rows_give_the_same_digest_and_another_row_another(tmp_path):
    spec = DatasetSpec(name="sums")
    digests = [
        build(tmp_path / name, rows).manifest(spec, code_version=name, created_at=datetime.now(UTC)).dataset_sha256
        for name, rows in (("first", ROWS), ("second", ROWS), ("third", ROWS[:-1]))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_dataset_without_rows_is_refused(tmp_path):
    with pytest.raises(UnusableData, match="no trace is selected"):
        build(tmp_path, [])
