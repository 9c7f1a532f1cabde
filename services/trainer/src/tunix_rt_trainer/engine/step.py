"""One optimizer step, and the loss of a batch: the two compiled functions of a run.

Config, spec and length of the run are static: they fix the program, and equal ones share it.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling import lora, transformer
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine import optim
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.losses import LOSSES
from tunix_rt_trainer.engine.state import TrainState, trainable, with_trained


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepMetrics:
    """Loss in nats per trained token, before the update; the gradient's global norm before clipping; the rate used."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]


@partial(jax.jit, static_argnames=("config", "spec", "total_steps"), donate_argnames="state")
def train_step(
    config: ModelConfig, spec: SftSpec, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, StepMetrics]:
    """Update on a batch of shape "accumulation batch tokens". `state` is donated: go on with the one returned.

    Losses and gradients of the micro-batches are summed and divided once by the number of all trained tokens, so how
    a batch is split changes nothing but the memory needed.
    """
    weights = trainable(state)
    loss_and_gradient = jax.value_and_grad(
        lambda weights, part: batch_loss(config, spec, with_trained(state, weights), part), has_aux=True
    )

    def accumulate(total: PyTree[Array], part: Batch) -> tuple[PyTree[Array], None]:
        return jax.tree.map(jnp.add, total, loss_and_gradient(weights, part)), None

    zeros = ((jnp.zeros(()), jnp.zeros((), jnp.int32)), jax.tree.map(jnp.zeros_like, weights))
    ((loss_sum, count), gradient_sum), _ = jax.lax.scan(accumulate, zeros, batch)
    count = jnp.maximum(count, 1)
    gradient = jax.tree.map(lambda leaf: leaf / count, gradient_sum)
    updates, moments = optim.optimizer(spec.optimizer, total_steps).update(gradient, state.optimizer, weights)
    metrics = StepMetrics(
        loss=loss_sum / count,
        gradient_norm=optax.tree.norm(gradient),
        learning_rate=optim.learning_rate(spec.optimizer, total_steps)(state.step),
    )
    moved = with_trained(state, optax.apply_updates(weights, updates))
    return replace(moved, step=state.step + 1, optimizer=moments), metrics


@partial(jax.jit, static_argnames=("config", "spec"))
def batch_loss(
    config: ModelConfig, spec: SftSpec, state: TrainState, batch: Batch
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """Loss sum in nats and number of trained tokens of a batch of shape "batch tokens"."""
    token_ids, loss_mask, segments = map(jnp.asarray, (batch.token_ids, batch.loss_mask, batch.segments))
    hidden = transformer.hidden_states(
        config,
        state.params,
        token_ids,
        attention_mask=segments > 0,
        segments=segments if spec.packing else None,
        lora=state.lora,
        lora_scale=lora.scale(spec.lora) if spec.lora else 0.0,
    )
    return LOSSES[spec.method](config, state.params, hidden, token_ids, loss_mask)
