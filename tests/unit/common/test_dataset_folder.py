"""Datasets as folders: made from a file of traces, read back, and compared with what their manifest says."""

import hashlib
import json

import pytest

from tunix_rt_common.datasetcheck import check_dataset
from tunix_rt_common.datasetfolder import read_manifest, read_split, write_dataset
from tunix_rt_common.datasets import ShardEntry, dataset_digest
from tunix_rt_common.errors import InvalidInput, UnusableData
from tunix_rt_common.shards import build_shards
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.splits import assign_splits

SPEC = DatasetSpec(name="sums", test_fraction=0.25, rows_per_shard=4, seed=3)


def record(number):
    return {
        "prompt": f"{number}+1=",
        "steps": [{"i": 0, "type": "sum", "content": f"{number}+1 is {number + 1}"}],
        "final_answer": str(number + 1),
    }


@pytest.fixture
def traces(tmp_path):
    file = tmp_path / "traces.jsonl"
    file.write_text("\n".join(json.dumps(record(number)) for number in range(20)) + "\n")
    return file


@pytest.fixture
def folder(traces, tmp_path):
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_dataset(traces, SPEC, folder)
    return folder


def lines_in(folder):
    return lambda shard: (folder / shard.path).read_bytes().splitlines(keepends=True)


def rewritten(folder, **changes):
    """The folder's manifest with other values, and a digest that fits its shards."""
    values = json.loads((folder / "manifest.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split("__")
        inside = values
        for key in parents:
            inside = inside[int(key) if key.isdecimal() else key]
        inside[last] = value
    (folder / "manifest.json").write_text(json.dumps(values))
    return read_manifest(folder)


def test_dataset_is_split_sharded_and_hashed_as_the_registry_does_it(traces, folder, tmp_path):
    manifest = read_manifest(folder)
    rows = {split: read_split(folder, manifest, split) for split in ("train", "validation", "test")}
    assert sum(map(len, rows.values())) == manifest.statistics.rows == 20
    groups = [row.group for found in rows.values() for row in found]
    splits = assign_splits(groups, seed=3, validation_fraction=0.05, test_fraction=0.25)
    assert all(splits[row.group] == split for split, found in rows.items() for row in found)
    (tmp_path / "again").mkdir()
    in_order = sorted((row for found in rows.values() for row in found), key=lambda row: int(row.final_answer))
    assert build_shards(in_order, splits, tmp_path / "again", 4).shards == manifest.shards
    check_dataset(manifest, lines_in(folder))


def test_exported_rows_make_the_dataset_that_they_come_from(folder, tmp_path):
    manifest = read_manifest(folder)
    export = tmp_path / "export.jsonl"
    export.write_bytes(b"".join((folder / shard.path).read_bytes() for shard in manifest.shards))
    (tmp_path / "again").mkdir()
    assert write_dataset(export, SPEC, tmp_path / "again").dataset_sha256 == manifest.dataset_sha256


def test_trace_that_comes_twice_counts_once(traces, tmp_path):
    traces.write_bytes(traces.read_bytes() * 2)
    (tmp_path / "dataset").mkdir()
    assert write_dataset(traces, SPEC, tmp_path / "dataset").statistics.rows == 20


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"prompt": "1+1=", "steps": [], "final_answer": "2"}', "line 2 is no trace (steps: "),
        (b'{"prompt": ', "line 2 is not JSON"),
        (b"[]", "line 2 is no trace"),
        (b'{"prompt": "\xff"}', "line 2 is not JSON"),
    ],
)
def test_line_that_is_no_trace_is_named(tmp_path, line, words):
    file = tmp_path / "traces.jsonl"
    file.write_bytes(json.dumps(record(1)).encode() + b"\n" + line + b"\n")
    (tmp_path / "dataset").mkdir()
    with pytest.raises(UnusableData, match=r"traces.jsonl") as error:
        write_dataset(file, SPEC, tmp_path / "dataset")
    assert words in str(error.value)


def test_file_without_traces_is_refused(tmp_path):
    file = tmp_path / "traces.jsonl"
    file.write_text("\n\n")
    (tmp_path / "dataset").mkdir()
    with pytest.raises(UnusableData, match="no trace is selected"):
        write_dataset(file, SPEC, tmp_path / "dataset")


def test_missing_and_damaged_parts_of_a_folder_are_named(folder, tmp_path):
    manifest = read_manifest(folder)
    shard = folder / next(shard.path for shard in manifest.shards if shard.split == "train")
    shard.write_bytes(shard.read_bytes() + b"\n")
    with pytest.raises(UnusableData, match=f"{shard.name} is not the shard"):
        read_split(folder, manifest, "train")
    shard.unlink()
    with pytest.raises(UnusableData, match=f"{shard.name} cannot be read"):
        read_split(folder, manifest, "train")
    with pytest.raises(InvalidInput, match=r"manifest.json cannot be read"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("path", ["../outside.jsonl", "/etc/passwd", "a/b.jsonl", ".hidden"])
def test_manifest_names_no_file_outside_its_folder(folder, path):
    with pytest.raises(InvalidInput, match=r"shards\.0\.path"):
        rewritten(folder, shards__0__path=path)


def test_manifest_with_the_digest_of_other_shards_is_refused(folder):
    with pytest.raises(InvalidInput, match="dataset_sha256 is not the digest"):
        rewritten(folder, dataset_sha256="0" * 64)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"statistics__rows": 21}, "statistics.rows"),
        ({"statistics__completion_chars__max": 10**6}, "statistics.completion_chars"),
        ({"splits__test__rows": 19}, "splits"),
    ],
)
def test_manifest_that_counts_its_rows_wrong_is_refused(folder, changes, field):
    with pytest.raises(UnusableData) as error:
        check_dataset(rewritten(folder, **changes), lines_in(folder))
    assert error.value.field == field


def tampered(folder, change):
    """A dataset one of whose rows was changed, with shard, counts and digests made to fit."""
    values = json.loads((folder / "manifest.json").read_text())
    entry = values["shards"][0]
    first, *rest = (folder / entry["path"]).read_bytes().splitlines(keepends=True)
    content = b"".join([change(first), *rest])
    (folder / entry["path"]).write_bytes(content)
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(values))
    shards = [ShardEntry.model_validate(shard) for shard in values["shards"]]
    return rewritten(folder, dataset_sha256=dataset_digest(shards))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line.replace(b'"final_answer":"', b'"final_answer":"1'), "row_id or group"),
        (lambda line: line.replace(b'"group":"', b'"group":"z'), "not a dataset row"),
        (lambda line: line.replace(b'":', b'": ', 1), "not a dataset row"),
        (lambda line: line[:-1] + b"\r\n", "not a dataset row"),
        (lambda line: b"{}\n", "not a dataset row"),
    ],
)
def test_changed_row_is_found_even_where_all_digests_fit(folder, change, words):
    with pytest.raises(UnusableData, match="line 1") as error:
        check_dataset(tampered(folder, change), lines_in(folder))
    assert words in str(error.value)


def test_prompt_in_two_splits_is_refused(folder):
    manifest = read_manifest(folder)
    train = next(shard for shard in manifest.shards if shard.split == "train")
    test = next(shard for shard in manifest.shards if shard.split == "test")
    twice = (folder / train.path).read_bytes().splitlines(keepends=True)[0]
    both = [twice, *(folder / test.path).read_bytes().splitlines(keepends=True)[1:]]
    with pytest.raises(UnusableData, match="other rows of its prompt in 'train'"):
        check_dataset(manifest, lambda shard: both if shard == test else lines_in(folder)(shard))


def test_unreadable_file_is_refused_by_name(tmp_path):
    (tmp_path / "dataset").mkdir()
    with pytest.raises(InvalidInput, match=r"nothing.jsonl cannot be read"):
        write_dataset(tmp_path / "nothing.jsonl", SPEC, tmp_path / "dataset")
    assert list((tmp_path / "dataset").iterdir()) == []
