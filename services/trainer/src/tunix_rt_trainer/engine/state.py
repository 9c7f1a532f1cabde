"""Everything that a training step changes, and everything that it needs unchanged."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.lora import init_lora
from tunix_rt_trainer.engine import optim


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A run between two steps. `step` counts the finished ones.

    `params` are the model's weights: trained when `lora` is None, frozen when it holds adapters.
    """

    step: Int[Array, ""]
    params: PyTree[Array]
    lora: PyTree[Array] | None
    optimizer: optax.OptState
    key: Key[Array, ""]


def init(config: ModelConfig, spec: SftSpec, params: PyTree[Array]) -> TrainState:
    """The state before the first step. It takes over `params`: a training step donates their memory."""
    key, lora_key = jax.random.split(jax.random.key(spec.seed))
    lora = init_lora(config, spec.lora, lora_key) if spec.lora else None
    moments = optim.optimizer(spec.optimizer, total_steps=1).init(params if lora is None else lora)
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, lora=lora, optimizer=moments, key=key)


def trainable(state: TrainState) -> PyTree[Array]:
    """What the optimizer moves: the adapters of a LoRA run, else all weights."""
    return state.params if state.lora is None else state.lora


def with_trained(state: TrainState, weights: PyTree[Array]) -> TrainState:
    """The state with `weights` in the place of `trainable(state)`."""
    return replace(state, params=weights) if state.lora is None else replace(state, lora=weights)
