"""Judging a bundle with no service beside it."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import jax
import pytest

from tunix_rt_common import runbundle
from tunix_rt_common.datasetfolder import write_dataset
from tunix_rt_common.errors import InvalidInput, UnusableData
from tunix_rt_common.reports import EvalReport, digest
from tunix_rt_common.runbundle import BaseModel, RunBundle, read_bundle
from tunix_rt_common.specs import DatasetSpec, RunSpec
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_evaluator import offline
from tunix_rt_evaluator.offline import evaluate_offline
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import PRESETS
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_modeling.transformer import init_params

EVALUATE = {"limit": 4, "sampling": {"max_new_tokens": 4}}


def describe(folder, evaluate):
    spec = RunSpec.model_validate({"dataset": "sums", "base_model": "tiny", "evaluate": evaluate})
    manifest = json.loads((folder / "dataset" / "manifest.json").read_text())
    bundle = RunBundle(
        spec=spec,
        base_model=BaseModel(name="tiny", sha256=None),
        dataset_sha256=manifest["dataset_sha256"],
        environment={},
        versions={},
        code_version="0",
        created_at=datetime.now(UTC),
        files=runbundle.list_files(folder),
    )
    runbundle.write_bundle(folder, bundle)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A bundle as training leaves it, with a model that has learned nothing."""
    folder = tmp_path_factory.mktemp("trained")
    traces = folder / "traces.txt"
    records = (
        {"prompt": f"{n}+1=", "steps": [{"i": 0, "type": "sum", "content": "one up"}], "final_answer": str(n + 1)}
        for n in range(20)
    )
    traces.write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "dataset").mkdir()
    write_dataset(traces, DatasetSpec(name="sums", test_fraction=0.5, validation_fraction=0.0), folder / "dataset")
    config = PRESETS["tiny"]
    huggingface.save(folder / "model", config, init_params(config, jax.random.key(0)), byte_tokenizer())
    (folder / "metrics.jsonl").write_text('{"step":1,"numbers":{"loss":5.0}}\n')
    describe(folder, EVALUATE)
    return folder


@pytest.fixture
def bundle(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "bundle"))


def test_report_of_the_models_answers_becomes_a_part_of_the_bundle(bundle):
    report = evaluate_offline(bundle)
    described = read_bundle(bundle)
    runbundle.check_files(bundle, described)
    content = (bundle / "evaluation.json").read_bytes()
    assert EvalReport.model_validate_json(content) == report
    assert described.entry("evaluation.json").sha256 == digest(report)
    assert report.model_sha256 == digest(FolderManifest(files=described.below("model")))
    assert report.dataset_sha256 == described.dataset_sha256
    assert (len(report.items), report.split) == (4, "test")


def test_bundle_that_is_judged_already_is_left_as_it_is(bundle):
    report, described = evaluate_offline(bundle), read_bundle(bundle)
    assert evaluate_offline(bundle) == report
    assert read_bundle(bundle) == described


def test_changed_bundle_is_not_judged(bundle):
    (bundle / "model" / "config.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"model/config.json is not the file"):
        evaluate_offline(bundle)


def test_bundle_that_asks_for_no_evaluation_or_on_no_rows_is_refused(bundle):
    describe(bundle, None)
    with pytest.raises(InvalidInput, match="asks for no evaluation"):
        evaluate_offline(bundle)
    describe(bundle, EVALUATE | {"split": "validation"})
    with pytest.raises(UnusableData, match="split 'validation' of sums has no rows"):
        evaluate_offline(bundle)


def test_command_says_what_came_of_it(bundle, tmp_path, capsys):
    assert offline.main([str(bundle)]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "0 of 4 right, 0 could not be judged"
    assert offline.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_no_database_queue_or_store_is_loaded():
    program = """
import sys
import tunix_rt_evaluator.offline
platform = ("sqlalchemy", "celery", "kombu", "redis", "minio", "psycopg", "opentelemetry")
print(*[name for name in platform if name in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
