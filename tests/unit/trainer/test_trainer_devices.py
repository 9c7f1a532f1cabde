import sys

import jax
import pytest

from tunix_rt_common.specs import DEVICE_NAMES, MeshSpec, PlanSpec, SftSpec
from tunix_rt_trainer import devices
from tunix_rt_trainer.devices import KNOWN, claimed_device, device_of, flops_per_s, host_memory_bytes

GIB = 1024**3


def spec(mesh=None, **target):
    return PlanSpec(dataset="sums", base_model="tiny", train=SftSpec(mesh=mesh or MeshSpec()), **target)


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose driver reports a GPU, with JAX able to use it or not."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)

    def report(line: str, *, plugin: bool = True) -> None:
        query = tmp_path / "nvidia-smi"
        query.write_text(f"#!/bin/sh\necho '{line}'\n")
        query.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        if plugin:
            (tmp_path / "jax_cuda12_plugin").mkdir()
            monkeypatch.syspath_prepend(str(tmp_path))

    yield report
    sys.path_importer_cache.clear()


def test_every_device_that_can_be_named_is_known():
    assert {*KNOWN, "cpu"} == set(DEVICE_NAMES)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("NVIDIA H200, 143771", "nvidia-h200"),
        ("NVIDIA H100 80GB HBM3, 81559", "nvidia-h100"),
        ("NVIDIA A100-SXM4-40GB, 40960", "nvidia-a100-40gb"),
        ("NVIDIA A100 80GB PCIe, 81920", "nvidia-a100-80gb"),
        ("NVIDIA L4, 23034", "nvidia-l4"),
        ("NVIDIA L40S, 46068", "nvidia-l40s"),
        ("Tesla T4, 15360", "nvidia-t4"),
        ("NVIDIA GeForce RTX 9999, 32768", "NVIDIA GeForce RTX 9999"),
    ],
)
def test_gpu_of_the_machine_is_found_without_claiming_it(machine, line, name):
    machine(line)
    found = device_of(spec())
    assert (found.name, found.is_host) == (name, False)
    assert found.memory_bytes == int(0.75 * int(line.rpartition(", ")[2]) * 1024**2)
    assert (flops_per_s(found, "bfloat16") is None) == (name not in KNOWN)


def test_share_of_memory_that_jax_takes_is_the_users(machine, monkeypatch):
    machine("NVIDIA H200, 100000")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert device_of(spec()).memory_bytes == 90_000 * 1024**2


def test_gpu_that_jax_cannot_use_is_none(machine):
    machine("NVIDIA H200, 143771", plugin=False)
    assert device_of(spec()).name == "cpu"


def test_driver_that_reports_nothing_means_the_cpu(machine):
    machine("No devices were found")
    assert device_of(spec()).name == "cpu"


def test_trainer_that_is_kept_to_the_cpu_has_no_gpu(machine, monkeypatch):
    machine("NVIDIA H200, 143771")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert device_of(spec()).name == "cpu"


@pytest.mark.parametrize(
    ("told", "name", "count"),
    [("v5litepod-8", "tpu-v5e", 8), ("v6e-1", "tpu-v6e", 1), ("v4-8", "tpu-v4", 4), ("v5p-16", "tpu-v5p", 8)],
)
def test_tpus_of_the_machine_are_known_by_their_type(machine, monkeypatch, told, name, count):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", told)
    found = device_of(spec())
    assert (found.name, found.count) == (name, count)


def test_all_gpus_of_the_machine_count(machine):
    machine("NVIDIA L4, 23034\nNVIDIA L4, 23034")
    assert (device_of(spec()).count, device_of(spec(devices=1)).count) == (2, 1)


def test_of_a_named_device_there_are_as_many_as_the_mesh_has():
    mesh = MeshSpec(data=2, tensor=3)
    assert device_of(spec(device="nvidia-l4")).count == 1
    assert device_of(spec(mesh, device="nvidia-l4")).count == 6
    assert device_of(spec(mesh, device="nvidia-l4", devices=12)).count == 12


def test_given_memory_takes_the_place_of_what_is_known():
    assert device_of(spec(device="nvidia-l4", memory_gib=12.5)).memory_bytes == 12.5 * GIB
    assert device_of(spec(device="nvidia-l4")).memory_bytes == int(0.75 * 23_034 * 1024**2)
    assert device_of(spec(device="tpu-v5e")).memory_bytes == 15.75 * GIB


def test_products_run_at_the_speed_of_their_dtype():
    a100 = device_of(spec(device="nvidia-a100-80gb"))
    assert (flops_per_s(a100, "bfloat16"), flops_per_s(a100, "float32")) == (312e12, 156e12)
    assert 1e8 < flops_per_s(device_of(spec(device="cpu")), "float32") < 1e15


def test_claimed_device_is_the_one_that_jax_has():
    assert (claimed_device().name, claimed_device().memory_bytes) == ("cpu", host_memory_bytes() // jax.device_count())


@pytest.mark.parametrize(("limit", "expected"), [("1048576\n", 1048576), ("max\n", None), (None, None)])
def test_limit_of_the_control_group_counts_where_there_is_one(monkeypatch, tmp_path, limit, expected):
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    whole = host_memory_bytes()
    if limit:
        (tmp_path / "memory.max").write_text(limit)
    assert host_memory_bytes() == (expected or whole) > 0
