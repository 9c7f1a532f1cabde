"""Run with eight simulated devices: loss and gradients of a small model on several meshes, as one JSON object."""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np

from tunix_rt_common.specs import MeshSpec
from tunix_rt_modeling import sharding, transformer
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.cross_entropy import token_losses

MESHES = {
    "fsdp": MeshSpec(),
    "data": MeshSpec(data=8),
    "fsdp and tensor": MeshSpec(tensor=2),
    "all three": MeshSpec(data=2, tensor=2),
    "tensor beyond the heads": MeshSpec(tensor=8),
}
CONFIG = ModelConfig(
    vocab_size=263,
    hidden_size=32,
    intermediate_size=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
    qkv_bias=True,
)
SHAPE = (8, 24)


def loss(params, token_ids, segments):
    """Mean loss over packed rows, with the vocabulary in chunks."""
    hidden = transformer.hidden_states(CONFIG, params, token_ids, segments=segments)
    targets = jnp.roll(token_ids, -1, axis=1).reshape(-1)
    flat = hidden.reshape(-1, hidden.shape[-1])
    return token_losses(flat, transformer.head_of(CONFIG, params), targets, chunk=100).mean()


def compared(spec, plain, params, batch):
    """How far loss and gradients on a mesh are from those on one device, and how much of a matrix one device holds."""
    mesh = sharding.make_mesh(spec, jax.devices())
    placed = sharding.place(mesh, CONFIG, params)
    with sharding.use(mesh):
        value, gradient = jax.jit(jax.value_and_grad(loss))(placed, *sharding.place_batch(mesh, batch, 0))
    far = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), jax.device_get(gradient), plain[1])
    kernel = placed["layers"]["mlp"]["up_proj"]["kernel"]
    held = kernel.addressable_shards[0].data.size / kernel.size
    return {"loss": abs(float(value - plain[0])), "gradient": max(jax.tree.leaves(far)), "held": held}


def main():
    """Print what every mesh comes to."""
    params = transformer.init_params(CONFIG, jax.random.key(0))
    random = np.random.default_rng(0)
    token_ids = random.integers(0, CONFIG.vocab_size, SHAPE).astype(np.int32)
    segments = np.sort(random.integers(1, 4, SHAPE), axis=1).astype(np.int32)
    batch = (token_ids, segments)
    plain = jax.device_get(jax.jit(jax.value_and_grad(loss))(params, *batch))
    json.dump({name: compared(spec, plain, params, batch) for name, spec in MESHES.items()}, sys.stdout)


if __name__ == "__main__":
    main()
