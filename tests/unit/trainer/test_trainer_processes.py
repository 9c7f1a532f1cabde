"""Several processes that train one run, each with devices of its own, as on several hosts with a shared folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.unit.trainer.offlinerun import sums_spec, write_sums

from tunix_rt_common import runbundle
from tunix_rt_trainer import offline

STEPS = 16
SPEC = sums_spec(max_steps=STEPS, validate_every=8, optimizer={"weight_decay": 0.1}, lora={"rank": 4})
PATIENCE_S = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The data and the spec."""
    folder = tmp_path_factory.mktemp("processes")
    write_sums(folder / "traces.jsonl")
    (folder / "run.json").write_text(json.dumps(SPEC))
    return folder


def start_two(folder, out):
    """Two processes with two devices each; the first leads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-m", "tunix_rt_trainer.offline"]
    command += ["--spec", folder / "run.json", "--dataset", folder / "traces.jsonl", "--out", out]
    command += ["--processes", "2", "--coordinator", coordinator]
    return [
        subprocess.Popen([*command, "--process", str(index)], env=environment, stderr=subprocess.PIPE, text=True)
        for index in range(2)
    ]


def ends(both):
    """The exit code of each, and what it said."""
    try:
        said = [process.communicate(timeout=PATIENCE_S)[1] for process in both]
    finally:
        for process in both:
            process.kill()
    return [process.returncode for process in both], said


@pytest.fixture(scope="module")
def together(folder):
    out = folder / "together"
    codes, said = ends(start_two(folder, out))
    assert codes == [0, 0], said
    return out


def weights(out):
    return load_file(out / "model" / "model.safetensors")


@pytest.mark.long
def test_two_processes_come_to_the_weights_of_one(folder, together):
    alone = folder / "alone"
    offline.train_offline(SPEC, folder / "traces.jsonl", alone)
    theirs = weights(alone)
    for name, tensor in weights(together).items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=1e-5, atol=1e-5)
    bundle = runbundle.read_bundle(together)
    runbundle.check_files(together, bundle)
    assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
    assert bundle.dataset_sha256 == runbundle.read_bundle(alone).dataset_sha256


@pytest.mark.long
def test_one_that_is_told_to_leave_takes_all_along_and_they_go_on_to_the_same_weights(folder, together):
    out = folder / "stopped"
    both = start_two(folder, out)
    kept = out / "unfinished" / "checkpoints"
    deadline = time.monotonic() + PATIENCE_S
    while not list(kept.glob("step-*.json")):
        assert [process.poll() for process in both] == [None, None], ends(both)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    both[1].send_signal(signal.SIGTERM)
    codes, said = ends(both)
    assert codes == [offline.INTERRUPTED] * 2, said
    codes, said = ends(start_two(folder, out))
    assert codes == [0, 0], said
    assert "continues from the checkpoint of step" in said[0]
    ours = weights(out)
    for name, tensor in weights(together).items():
        np.testing.assert_array_equal(tensor, ours[name])


@pytest.mark.parametrize("missing", [["--process", "1"], ["--coordinator", "127.0.0.1:1", "--process", "2"]])
def test_process_that_cannot_find_the_others_is_told_what_is_missing(missing, capsys):
    files = ["--spec", "run.json", "--dataset", "traces.jsonl", "--out", "bundle"]
    with pytest.raises(SystemExit) as left:
        offline.main([*files, "--processes", "2", *missing])
    assert left.value.code == offline.BAD_INPUT
    assert "--processes 2 needs --coordinator HOST:PORT" in capsys.readouterr().err
