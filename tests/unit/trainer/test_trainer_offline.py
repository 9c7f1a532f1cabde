"""Training with no service beside it: what it leaves, what a kill costs, and what is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.unit.trainer.offlinerun import sums_spec, write_sums

from tunix_rt_common import runbundle
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.runbundle import measured, read_bundle, read_metrics
from tunix_rt_modeling import huggingface
from tunix_rt_trainer import offline
from tunix_rt_trainer.localkeeping import MetricsFile
from tunix_rt_trainer.offline import train_offline

STEPS = 24
SPEC = sums_spec(max_steps=STEPS, validate_every=12)
PATIENCE_S = 200


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("data") / "traces.jsonl")


@pytest.fixture(scope="module")
def whole(traces, tmp_path_factory):
    """The folder of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "bundle"
    train_offline(SPEC, traces, out)
    return out


@pytest.fixture
def copied(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "bundle"))


def started(traces, out, spec=SPEC):
    """The same run as a command, as from a terminal."""
    file = out.with_suffix(".json")
    file.write_text(json.dumps(spec))
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys; from tunix_rt_trainer.offline import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--spec", file, "--dataset", traces, "--out", out]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)


def listed(out):
    """The steps whose checkpoints are there."""
    return sorted(int(path.name.split("-")[1]) for path in (out / "unfinished" / "checkpoints").glob("step-*.json"))


def wait_for_checkpoint(process, out):
    deadline = time.monotonic() + PATIENCE_S
    while not listed(out):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def weights(out):
    return (out / "model" / "model.safetensors").read_bytes()


def losses(out):
    lines = (out / "metrics.jsonl").read_bytes().splitlines()
    return [
        (metric.step, metric.numbers.get("loss"), metric.numbers["validation_loss"]) for metric in read_metrics(lines)
    ]


def test_run_leaves_a_bundle_that_holds_all_of_it(whole):
    bundle = read_bundle(whole)
    runbundle.check_files(whole, bundle)
    assert {path.name for path in whole.iterdir()} == {"bundle.json", "metrics.jsonl", "dataset", "model"}
    assert (bundle.spec.dataset, bundle.spec.train.max_steps, bundle.base_model.name) == ("sums", STEPS, "tiny")
    assert bundle.environment["jax"] == bundle.versions["jax"]
    huggingface.load(whole / "model")


def test_every_step_is_in_the_metrics_and_the_untrained_model_too(whole):
    told = list(read_metrics((whole / "metrics.jsonl").read_bytes().splitlines()))
    assert [metric.step for metric in told] == list(range(STEPS + 1))
    came_to = measured(told)
    assert came_to["steps"] == STEPS
    assert came_to["validation_loss"] < came_to["base_validation_loss"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_run_that_was_stopped_goes_on_to_the_same_weights(whole, traces, tmp_path, end):
    out = tmp_path / "bundle"
    process = started(traces, out)
    wait_for_checkpoint(process, out)
    process.send_signal(end)
    told = process.communicate(timeout=PATIENCE_S)[1]
    words = "interrupted: the same command goes on from the checkpoint that was kept"
    assert process.returncode == (130 if end != signal.SIGKILL else -signal.SIGKILL)
    assert told.splitlines()[-1:] == [words] or end == signal.SIGKILL
    assert listed(out)
    assert not (out / "bundle.json").exists()
    train_offline(SPEC, traces, out)
    assert weights(out) == weights(whole)
    assert losses(out) == losses(whole)


def test_interrupted_run_keeps_the_step_that_it_was_at(traces, tmp_path):
    out = tmp_path / "bundle"
    rare = SPEC | {"train": SPEC["train"] | {"checkpoint_every": 1000}}
    process = started(traces, out, rare)
    deadline = time.monotonic() + PATIENCE_S
    while not (out / "metrics.jsonl").exists() or len((out / "metrics.jsonl").read_bytes().splitlines()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    [step] = listed(out)
    assert 0 < step < STEPS


def test_damaged_checkpoint_is_passed_over(whole, traces, tmp_path, capsys):
    out = tmp_path / "bundle"
    process = started(traces, out)
    while len(listed(out)) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    older, newest = listed(out)[-2:]
    folder = next((out / "unfinished" / "checkpoints").glob(f"step-{newest}-*[0-9]"))
    next(path for path in folder.rglob("*") if path.is_file()).write_bytes(b"damaged")
    train_offline(SPEC, traces, out)
    told = capsys.readouterr().err
    assert f"the checkpoint of step {newest} is damaged" in told
    assert f"continues from the checkpoint of step {older}" in told
    assert weights(out) == weights(whole)


def test_finished_run_is_not_trained_again(copied, traces):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    assert train_offline(SPEC, traces, copied) == read_bundle(copied)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()} == {
        path: moment for path, moment in before.items() if path.is_file()
    }


def test_finished_folder_of_another_run_is_refused_and_left_alone(copied, traces, tmp_path):
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(traces.read_text().splitlines(keepends=True)[:20]))
    for spec, data in ((SPEC | {"train": SPEC["train"] | {"seed": 4}}, traces), (SPEC, fewer)):
        with pytest.raises(InvalidInput, match="holds the bundle of another run: name another folder"):
            train_offline(spec, data, copied)
    runbundle.check_files(copied, read_bundle(copied))


@pytest.mark.parametrize("names", [("notes.txt",), ("dataset", "model"), ("bundle.json", "traces.jsonl")])
def test_folder_that_holds_something_else_is_refused_and_left_alone(traces, tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(InvalidInput, match="name an empty folder"):
        train_offline(SPEC, traces, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names)


def test_checkpoints_of_another_run_are_refused_and_kept(traces, tmp_path):
    out = tmp_path / "bundle"
    process = started(traces, out)
    wait_for_checkpoint(process, out)
    process.kill()
    process.communicate()
    kept = listed(out)
    with pytest.raises(InvalidInput, match="belongs to another run: its spec and base_model differ"):
        train_offline(SPEC | {"train": SPEC["train"] | {"seed": 4}}, traces, out)
    assert listed(out) == kept


def test_pulled_dataset_trains_as_the_file_that_it_was_made_of(whole, tmp_path):
    out = tmp_path / "bundle"
    bundle = train_offline(SPEC, whole / "dataset", out)
    assert bundle.dataset_sha256 == read_bundle(whole).dataset_sha256
    assert weights(out) == weights(whole)


def test_model_directory_is_a_base_model(whole, traces, tmp_path):
    bundle = train_offline(SPEC, traces, tmp_path / "bundle", base_model=str(whole / "model"))
    assert bundle.base_model.name == "model"
    assert bundle.base_model.sha256
    assert weights(tmp_path / "bundle") != weights(whole)


def test_notebook_thread_needs_no_signals(traces, tmp_path):
    thread = threading.Thread(target=train_offline, args=(SPEC, traces, tmp_path / "bundle"))
    thread.start()
    thread.join(PATIENCE_S)
    assert read_bundle(tmp_path / "bundle")


def test_split_of_a_file_follows_the_fractions(traces, tmp_path):
    train_offline(SPEC, traces, tmp_path / "bundle", splits={"test_fraction": 0.5, "validation_fraction": 0.0})
    manifest = json.loads((tmp_path / "bundle" / "dataset" / "manifest.json").read_text())
    assert {name: counts["rows"] for name, counts in manifest["splits"].items()} == {
        "train": 15,
        "validation": 0,
        "test": 15,
    }


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"base_model": "champion@9"}, "base_model", "tunix-rt models pull"),
        ({"train": {"batch_size": 0}}, "spec", "train.batch_size"),
        ({"typo": 1}, "spec", "typo"),
        ({"evaluate": {"dataset": "other"}}, "evaluate.dataset", "leave evaluate.dataset out"),
        ({"train": {"engine": "tunix"}}, "train.engine", "use 'jax'"),
        ({"dataset": "Not A Name"}, "dataset", "name it in the spec's dataset"),
        ({"train": {"max_tokens": 8}}, "max_tokens", "longer than 8 tokens"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_field(traces, tmp_path, changes, field, words):
    with pytest.raises(InvalidInput) as error:
        train_offline(SPEC | changes, traces, tmp_path / "bundle")
    assert error.value.field == field
    assert words in str(error.value)
    assert not (tmp_path / "bundle" / "bundle.json").exists()


def test_command_tells_what_is_wrong_in_one_line(traces, tmp_path, capsys):
    (tmp_path / "spec.json").write_text("[]")
    arguments = ["--spec", str(tmp_path / "spec.json"), "--dataset", str(traces), "--out", str(tmp_path / "bundle")]
    assert offline.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: spec: ")
    assert told.count("\n") == 1


def test_no_database_queue_or_store_is_loaded():
    program = """
import sys
import tunix_rt_trainer.offline
platform = ("sqlalchemy", "celery", "kombu", "redis", "minio", "psycopg", "opentelemetry")
print(*[name for name in platform if name in sys.modules])
"""
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert loaded.stdout.split() == []


def test_metrics_of_a_step_measured_again_replace_what_followed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    for step in range(5):
        first.add(step, {"loss": 9.0 - step})
    path.write_bytes(path.read_bytes() + b'{"step":5,"numb')
    again = MetricsFile(path)
    again.add(3, {"loss": 1.0})
    assert [(m.step, m.numbers["loss"]) for m in read_metrics(path.read_bytes().splitlines())] == [
        (0, 9.0),
        (1, 8.0),
        (2, 7.0),
        (3, 1.0),
    ]
