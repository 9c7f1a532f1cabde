"""The same run on one device, on eight, and on two processes of four; checkpoints move between them."""

import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import MeshSpec
from tunix_rt_trainer.engine import checkpoints
from tunix_rt_trainer.engine.device import mesh_of

PROGRAM = Path(__file__).with_name("topology.py")
RUNS = ["full on fsdp", "full on fsdp and tensor", "full on all three", "dpo-lora on fsdp", "distill on fsdp"]
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eight")
    subprocess.run([sys.executable, PROGRAM, folder], check=True, timeout=TIMEOUT_S)
    return folder


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [subprocess.Popen([sys.executable, PROGRAM, folder, str(number), port]) for number in range(2)]
    try:
        assert [process.wait(TIMEOUT_S) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    return folder


@pytest.fixture(scope="module")
def one_device(small):
    """What each kind of run comes to here, where there is one device."""
    topology = SimpleNamespace(**runpy.run_path(str(PROGRAM)))
    return {kind: topology.trained(kind, MeshSpec()) for kind in ("full", "dpo-lora", "distill")}


def numbers(folder, name, run):
    return np.array(json.loads((folder / name).read_text())[run])


@pytest.mark.parametrize("run", RUNS)
def test_a_mesh_trains_as_one_device_does(eight_devices, one_device, run):
    expected = np.array(one_device[run.split()[0]])
    np.testing.assert_allclose(numbers(eight_devices, "alone.json", run), expected, rtol=1e-5)


def test_two_processes_train_as_one_device_does(two_processes, one_device):
    for process in range(2):
        found = numbers(two_processes, f"process-{process}.json", "full on fsdp and tensor")
        np.testing.assert_allclose(found, np.array(one_device["full"]), rtol=1e-5)


def restored(small, folder):
    spec = SimpleNamespace(**runpy.run_path(str(PROGRAM))).spec_of("full")
    one = small.SPEC
    return small.as_arrays(checkpoints.load(folder, small.fresh_state(one), inputs=small.inputs(spec)))


def test_a_checkpoint_of_eight_devices_restores_on_one_and_on_another_mesh(small, eight_devices):
    here, moved = restored(small, eight_devices / "full on fsdp"), np.load(eight_devices / "moved.npz")
    assert [name for name, leaf in here.items() if leaf.tobytes() != moved[name].tobytes()] == []


def test_a_checkpoint_of_two_processes_restores_on_one_device(small, two_processes, eight_devices):
    together = restored(small, two_processes / "full on fsdp and tensor")
    alone = restored(small, eight_devices / "full on fsdp and tensor")
    for name, leaf in together.items():
        np.testing.assert_allclose(leaf, alone[name], rtol=1e-4, atol=1e-6)


def test_a_batch_that_the_mesh_does_not_divide_is_refused(monkeypatch, small):
    monkeypatch.setattr("tunix_rt_trainer.engine.device.sharding.batch_shards", lambda mesh: 8)
    with pytest.raises(InvalidInput, match=r"a micro-batch of 2 .* into 8 equal parts.*a multiple of 16") as refused:
        mesh_of(small.SPEC)
    assert refused.value.field == "train.batch_size"
