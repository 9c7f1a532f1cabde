"""Bundles: what makes one, how each of its files is checked, and what is read of it."""

import json
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from tunix_rt_common import runbundle
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.reports import digest
from tunix_rt_common.runbundle import BaseModel, Metric, RunBundle, measured, read_metrics
from tunix_rt_common.specs import RunSpec

FILES = {
    "metrics.jsonl": b'{"step":1,"numbers":{"loss":2.0}}\n',
    "dataset/manifest.json": b"{}",
    "dataset/train-00000.jsonl": b"{}\n",
    "model/config.json": b"{}",
    "model/model.safetensors": bytes(100),
}


@pytest.fixture
def folder(tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "left.json").write_text("{}")
    runbundle.write_bundle(tmp_path, bundle_of(tmp_path))
    return tmp_path


def bundle_of(folder, **changes):
    fields = {
        "spec": RunSpec(dataset="sums", base_model="tiny"),
        "base_model": BaseModel(name="tiny", sha256=None),
        "dataset_sha256": "0" * 64,
        "environment": {"device": "cpu"},
        "versions": {"jax": "0.10"},
        "code_version": "0.1",
        "created_at": datetime.now(UTC),
        "files": runbundle.list_files(folder),
    }
    return RunBundle.model_validate(fields | changes)


def test_bundle_lists_its_parts_and_nothing_else_that_lies_there(folder):
    bundle = runbundle.read_bundle(folder)
    assert {entry.path for entry in bundle.files} == set(FILES)
    assert [entry.path for entry in bundle.below("model")] == ["config.json", "model.safetensors"]
    runbundle.check_files(folder, bundle)


def test_bundle_is_known_by_all_of_its_files(folder):
    known = digest(runbundle.read_bundle(folder))
    (folder / "model" / "model.safetensors").write_bytes(bytes(99) + b"1")
    changed = runbundle.read_bundle(folder).model_copy(update={"files": runbundle.list_files(folder)})
    assert digest(changed) != known


@pytest.mark.parametrize("name", FILES)
def test_changed_cut_and_missing_files_are_refused_by_name(folder, name):
    bundle, path = runbundle.read_bundle(folder), folder / name
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"!", content[:-1] + b"?"):
        path.write_bytes(damaged)
        with pytest.raises(InvalidInput, match=f"{name} is not the file") as error:
            runbundle.check_files(folder, bundle)
        assert error.value.field == name
    path.unlink()
    with pytest.raises(InvalidInput, match=f"{name} is listed in bundle.json and missing"):
        runbundle.check_files(folder, bundle)


def test_links_are_refused_wherever_they_lead(folder, tmp_path_factory):
    bundle, path = runbundle.read_bundle(folder), folder / "model" / "model.safetensors"
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    path.rename(elsewhere / path.name)
    path.symlink_to(elsewhere / path.name)
    with pytest.raises(InvalidInput, match=r"model/model.safetensors is a link"):
        runbundle.check_files(folder, bundle)
    path.unlink()
    (folder / "model" / "config.json").rename(elsewhere / "config.json")
    (folder / "model").rmdir()
    (folder / "model").symlink_to(elsewhere)
    with pytest.raises(InvalidInput, match=r"model/config.json is a link"):
        runbundle.check_files(folder, bundle)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files: [*files, files[0]], "one path is listed twice"),
        (lambda files: [file for file in files if file["path"] != "metrics.jsonl"], "metrics.jsonl is missing"),
        (lambda files: [file for file in files if file["path"] != "model/config.json"], "config.json is missing"),
        (lambda files: [*files, files[0] | {"path": "notes.txt"}], "notes.txt is no part of a bundle"),
        (lambda files: [*files, files[0] | {"path": "model/../../etc/passwd"}], "leaves the checkpoint"),
        (lambda files: [*files, files[0] | {"path": "/etc/passwd"}], "leaves the checkpoint"),
        (lambda files: [*files, files[0] | {"path": "model\\config.json"}], "is not a plain path"),
        (lambda files: [*files, files[0] | {"sha256": "x"}], "sha256"),
        (lambda files: [*files, files[0] | {"size_bytes": -1}], "size_bytes"),
    ],
)
def test_list_of_files_that_makes_no_bundle_is_refused(folder, change, words):
    path = folder / "bundle.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"files": change(values["files"])}))
    with pytest.raises(InvalidInput, match=r"bundle.json is not usable") as error:
        runbundle.read_bundle(folder)
    assert words in str(error.value)


@pytest.mark.parametrize("change", [{"schema_version": "2"}, {"extra": 1}, {"spec": {"dataset": "sums"}}])
def test_description_of_another_shape_is_refused_by_field(folder, change):
    path = folder / "bundle.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InvalidInput, match=next(iter(change))):
        runbundle.read_bundle(folder)


def test_unfinished_and_huge_descriptions_are_refused(folder, tmp_path):
    (folder / "bundle.json").write_bytes(b" " * (runbundle.MAX_BUNDLE_BYTES + 1))
    with pytest.raises(InvalidInput, match="larger than"):
        runbundle.read_bundle(folder)
    (folder / "bundle.json").unlink()
    with pytest.raises(InvalidInput, match=r"one without bundle.json is not finished"):
        runbundle.read_bundle(folder)


def test_evaluation_that_nobody_asked_for_is_refused(folder):
    (folder / "evaluation.json").write_text("{}")
    spec = RunSpec(dataset="sums", base_model="tiny", evaluate=None)
    with pytest.raises(ValidationError, match=r"spec.evaluate asks for none"):
        bundle_of(folder, spec=spec)


def test_newest_numbers_are_what_was_measured():
    metrics = [
        Metric(step=0, numbers={"validation_loss": 5.0}),
        Metric(step=1, numbers={"loss": 4.0, "validation_loss": 4.5}),
        Metric(step=2, numbers={"loss": 3.0, "validation_loss": None, "eta_s": 0.0, "margin": 0.5}),
    ]
    assert measured(metrics) == {
        "steps": 2,
        "train_loss": 3.0,
        "validation_loss": 4.5,
        "base_validation_loss": 5.0,
        "margin": 0.5,
    }


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([b'{"step":1,"numbers":{}}', b'{"step":1,"numbers":{}}'], "line 2 has step 1 after step 1"),
        ([b'{"step":-1,"numbers":{}}'], "line 1 is no metric"),
        ([b'{"step":1,"numbers":{"loss":"low"}}'], "numbers.loss"),
        ([b'{"step":1,"numbers":{"loss":NaN}}'], "line 1 is no metric"),
        ([b'{"step":1'], "line 1 is no metric"),
    ],
)
def test_metrics_out_of_order_or_form_are_refused_by_line(lines, words):
    with pytest.raises(InvalidInput, match=r"metrics.jsonl") as error:
        list(read_metrics(lines))
    assert words in str(error.value)
