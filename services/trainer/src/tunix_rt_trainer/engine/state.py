"""Everything that a training step changes, and everything that it needs unchanged."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from tunix_rt_common.specs import TrainSpec
from tunix_rt_modeling import sharding
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.lora import init_lora
from tunix_rt_modeling.nf4 import quantize_kernels
from tunix_rt_trainer.engine import optim
from tunix_rt_trainer.engine.device import mesh_of


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclass(frozen=True)
class Teacher:
    """The model that a student learns from."""

    config: ModelConfig
    params: PyTree[Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A run between two steps. `step` counts the finished ones.

    `params` are the model's weights: trained when `lora` is None, frozen when it holds adapters. The teacher is frozen.
    """

    step: Int[Array, ""]
    params: PyTree[Array]
    lora: PyTree[Array] | None
    optimizer: optax.OptState
    key: Key[Array, ""]
    teacher: Teacher | None = None


def init(
    config: ModelConfig,
    spec: TrainSpec,
    params: PyTree[Array],
    *,
    adapter: PyTree[Array] | None = None,
    teacher: Teacher | None = None,
) -> TrainState:
    """The state before the first step, on the spec's mesh, with a fresh adapter where one is due and none is given.

    It takes over `params`, `adapter` and `teacher`: a training step donates their memory.

    Raises:
        UnusableModel: the rank exceeds a dimension of a kernel that is to be adapted.
        InvalidInput: the mesh does not fit the devices or the batch.
    """
    mesh = mesh_of(spec)
    key, lora_key = jax.random.split(jax.random.key(spec.seed))
    lora = adapter
    if spec.lora:
        lora = init_lora(config, spec.lora, lora_key) if adapter is None else adapter
        params = quantize_kernels(params) if spec.lora.base == "nf4" else params
    params, lora = sharding.place(mesh, config, (params, lora))
    moments = _moments(config, spec, params if lora is None else lora)
    if teacher:
        teacher = replace(teacher, params=sharding.place(mesh, teacher.config, teacher.params))
    step, key = sharding.place(mesh, config, (jnp.zeros((), jnp.int32), key))
    return TrainState(step=step, params=params, lora=lora, optimizer=moments, key=key, teacher=teacher)


def _moments(config: ModelConfig, spec: TrainSpec, weights: PyTree[Array]) -> optax.OptState:
    """Those of the first step, each made where it stays."""
    init = optim.optimizer(spec.optimizer, total_steps=1).init
    mesh = mesh_of(spec)
    places = None if mesh.size == 1 else sharding.shardings(mesh, config, jax.eval_shape(init, weights))
    made: optax.OptState = jax.jit(init, out_shardings=places)(weights)
    return made


def trainable(state: TrainState) -> PyTree[Array]:
    """What the optimizer moves: the adapters of a LoRA run, else all weights."""
    return state.params if state.lora is None else state.lora


def with_trained(state: TrainState, weights: PyTree[Array]) -> TrainState:
    """The state with `weights` in the place of `trainable(state)`."""
    return replace(state, params=weights) if state.lora is None else replace(state, lora=weights)
