"""What runs are planned for: devices by name, and those of this machine, found without claiming any of them."""

import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp

from tunix_rt_common.specs import DeviceName, PlanSpec
from tunix_rt_trainer.engine.subject import Device

MIB, GIB = 1024**2, 1024**3
TERA = 1e12
JAX_SHARE_VARIABLE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
JAX_SHARE = 0.75
"""What JAX takes of a GPU's memory unless told otherwise."""
CUDA_PLUGINS = ("jax_cuda12_plugin", "jax_cuda13_plugin")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
TWO_CORES = {"tpu-v4", "tpu-v5p"}
PATIENCE_S = 30.0
PRODUCT_SIZE = 1024
PRODUCT_TIMES = 5


@dataclass(frozen=True)
class Known:
    """A kind of device: bytes, and matrix products per second with inputs of each dtype, without sparsity.

    On NVIDIA's tensor cores float32 products run as TF32, on TPUs as bfloat16: what JAX does by default. `words` are
    those of the name under which a driver reports the device.
    """

    memory_bytes: float
    bfloat16: float
    float32: float
    words: frozenset[str]


def _gpu(memory_mib: int, bfloat16: float, float32: float, *words: str) -> Known:
    return Known(memory_mib * MIB, bfloat16 * TERA, float32 * TERA, frozenset(words))


def _tpu(memory_gib: float, bfloat16: float, *words: str) -> Known:
    return Known(memory_gib * GIB, bfloat16 * TERA, bfloat16 * TERA, frozenset(words))


KNOWN: Mapping[DeviceName, Known] = MappingProxyType(
    {
        "nvidia-h200": _gpu(143_771, 989, 494, "H200"),
        "nvidia-h100": _gpu(81_559, 989, 494, "H100"),
        "nvidia-a100-80gb": _gpu(81_920, 312, 156, "A100", "80GB"),
        "nvidia-a100-40gb": _gpu(40_960, 312, 156, "A100", "40GB"),
        "nvidia-l40s": _gpu(46_068, 362, 183, "L40S"),
        "nvidia-l4": _gpu(23_034, 121, 60, "L4"),
        "nvidia-t4": _gpu(15_360, 8.1, 8.1, "T4"),
        "tpu-v4": _tpu(30.75, 275, "V4"),
        "tpu-v5e": _tpu(15.75, 197, "V5LITEPOD"),
        "tpu-v5p": _tpu(95.74, 459, "V5P"),
        "tpu-v6e": _tpu(31.25, 918, "V6E"),
    }
)
"""Memory as the driver (NVIDIA) or the compiler (TPU) reports it; products as in the makers' data sheets."""


def device_of(spec: PlanSpec) -> Device:
    """What a plan is for: the devices that it names, or those of this machine.

    Of named ones there are as many as the spec's mesh has, unless a number is given.
    """
    mesh = spec.train.mesh
    found = replace(_named(spec.device), count=mesh.data * (mesh.fsdp or 1) * mesh.tensor) if spec.device else _own()
    memory_bytes = found.memory_bytes if spec.memory_gib is None else round(spec.memory_gib * GIB)
    return replace(found, memory_bytes=memory_bytes, count=spec.devices or found.count)


def claimed_device() -> Device:
    """The devices that this process trains on, with what their driver lets arrays take."""
    claimed, count = jax.local_devices()[0], jax.device_count()
    if claimed.platform == "cpu":
        return Device("cpu", host_memory_bytes() // jax.local_device_count(), is_host=True, count=count)
    limit = (claimed.memory_stats() or {}).get("bytes_limit")
    return Device(claimed.device_kind, limit or host_memory_bytes(), is_host=False, count=count)


def flops_per_s(device: Device, dtype: str) -> float | None:
    """Matrix products of a device with inputs of this dtype: measured for the CPU, None for what is not known."""
    if device.is_host:
        return product_flops_per_s(dtype)
    known = next((known for name, known in KNOWN.items() if name == device.name), None)
    if known is None:
        return None
    return known.bfloat16 if dtype == "bfloat16" else known.float32


def host_memory_bytes() -> int:
    """The memory of this machine, or less where a control group sets a limit."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in CGROUP_LIMITS:
        file = CGROUP / name
        if file.is_file() and (limit := file.read_text().strip()).isdecimal():
            limits.append(int(limit))
    return min(limits)


def _named(name: DeviceName) -> Device:
    if name == "cpu":
        return Device("cpu", host_memory_bytes(), is_host=True)
    share = _gpu_share() if name.startswith("nvidia") else 1.0
    return Device(name, int(KNOWN[name].memory_bytes * share), is_host=False)


def _own() -> Device:
    """What JAX would train on here, were it not kept to the CPU: a GPU, a TPU, or the CPU."""
    if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
        return _named("cpu")
    return _own_gpu() or _own_tpu() or _named("cpu")


def _own_gpu() -> Device | None:
    """The GPUs that the driver reports, the first for all of them, where JAX could use them."""
    query = shutil.which("nvidia-smi")
    if query is None or not any(importlib.util.find_spec(plugin) for plugin in CUDA_PLUGINS):
        return None
    asked = [query, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=PATIENCE_S).stdout
    lines = answer.strip().splitlines() or [""]
    name, _, memory_mib = lines[0].rpartition(", ")
    if not memory_mib.isdecimal():
        return None
    memory_bytes = int(int(memory_mib) * MIB * _gpu_share())
    return Device(_recognised(name) or name, memory_bytes, is_host=False, count=len(lines))


def _own_tpu() -> Device | None:
    """The TPUs that the machine is told to have, in words such as v5litepod-8; v4 and v5p count two cores to a chip."""
    told = os.environ.get("TPU_ACCELERATOR_TYPE", "")
    name, number = _recognised(told), told.rpartition("-")[2]
    if name is None or not number.isdecimal():
        return None
    return replace(_named(name), count=max(1, int(number) // (2 if name in TWO_CORES else 1)))


def _recognised(reported: str) -> DeviceName | None:
    words = set(re.split(r"[^A-Z0-9]+", reported.upper()))
    return next((name for name, known in KNOWN.items() if known.words <= words), None)


def _gpu_share() -> float:
    return float(os.environ.get(JAX_SHARE_VARIABLE, JAX_SHARE))


def product_flops_per_s(dtype: str, size: int = PRODUCT_SIZE) -> float:
    """How fast JAX's device multiplies two square matrices: the fastest of a few tries, after one that compiles."""
    matrix = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    taken_s = []
    for _ in range(PRODUCT_TIMES):
        started_s = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        taken_s.append(time.perf_counter() - started_s)
    return float(2 * size**3 / min(taken_s))
