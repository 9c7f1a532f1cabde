"""How the devices compute a run: what the spec says, and where it leaves the choice, what suits them."""

from functools import cache

import jax
from jax.sharding import Mesh

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import MeshSpec, TrainSpec
from tunix_rt_modeling import sharding
from tunix_rt_modeling.config import ModelConfig


def on_device(config: ModelConfig, spec: TrainSpec, *, on_cpu: bool | None = None) -> ModelConfig:
    """The config with the spec's precision and rematerialisation; the model that it describes is the same.

    It is for a CPU or for an accelerator: for what this process has, unless said otherwise.
    """
    suits = "float32" if (jax.default_backend() == "cpu" if on_cpu is None else on_cpu) else "bfloat16"
    dtype = suits if spec.precision == "auto" else spec.precision
    return config.model_copy(update={"compute_dtype": dtype, "remat": spec.remat})


def mesh_of(spec: TrainSpec) -> Mesh:
    """All devices, as the spec lays them out.

    Raises:
        InvalidInput: its axes do not multiply to their number, or do not divide a micro-batch.
    """
    mesh, rows = _mesh(spec.mesh), spec.batch_size // spec.accumulation
    shards = sharding.batch_shards(mesh)
    if rows % shards:
        raise InvalidInput(
            f"a micro-batch of {rows} (batch_size {spec.batch_size} / accumulation {spec.accumulation}) cannot be cut "
            f"into {shards} equal parts, one for each of the mesh's data x fsdp devices: choose a batch_size that is a "
            f"multiple of {shards * spec.accumulation}, or give devices to mesh.tensor",
            field="train.batch_size",
        )
    return mesh


@cache
def _mesh(spec: MeshSpec) -> Mesh:
    return sharding.make_mesh(spec, jax.devices())
