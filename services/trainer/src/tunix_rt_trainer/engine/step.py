"""One optimizer step, and the loss of a batch: the two compiled functions of a run.

Config, length of the run, and the part of the spec that fixes the program are static: equal ones share it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from tunix_rt_common.specs import TrainSpec
from tunix_rt_modeling import lora, sharding, transformer
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.divergence import Scorer
from tunix_rt_trainer.engine import optim
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.device import mesh_of
from tunix_rt_trainer.engine.losses import LOSSES, Totals
from tunix_rt_trainer.engine.state import TrainState, trainable, with_trained

NOT_COMPILED = frozenset(
    {
        "target",
        "epochs",
        "max_steps",
        "batch_size",
        "accumulation",
        "max_tokens",
        "step_weights",
        "checkpoint_every",
        "validate_every",
        "seed",
    }
)
"""What a spec says of data, order and intervals: it reaches the compiled functions as arrays, or not at all."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepMetrics:
    """Loss in nats per trained token or pair, before the update; the gradient's global norm before clipping; the rate.

    `measures` are means of what the method measures beside its loss.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    learning_rate: Float[Array, ""]
    measures: Mapping[str, Float[Array, ""]]


def train_step(
    config: ModelConfig, spec: TrainSpec, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, StepMetrics]:
    """Update on a batch of shape "accumulation batch tokens". `state` is donated: go on with the one returned.

    Losses and gradients of the micro-batches are summed and divided once by the count of them all, so how a batch is
    split changes nothing but the memory needed.
    """
    mesh = mesh_of(spec)
    with sharding.use(mesh):
        placed = sharding.place_batch(mesh, batch, batch_axis=1)
        stepped: tuple[TrainState, StepMetrics] = _train_step(config, program_of(spec), total_steps, state, placed)
    return stepped


def compiled_step(
    config: ModelConfig, spec: TrainSpec, total_steps: int, state: TrainState, batch: Batch
) -> jax.stages.Compiled:
    """The step for arrays of these shapes and places, compiled; `train_step` on such arrays compiles nothing more."""
    with sharding.use(mesh_of(spec)):
        compiled: jax.stages.Compiled = _train_step.lower(config, program_of(spec), total_steps, state, batch).compile()
    return compiled


def traced_step(
    config: ModelConfig, spec: TrainSpec, total_steps: int, state: TrainState, batch: Batch
) -> jax.stages.Traced:
    """The step for arrays of these shapes as one device would compute it, not compiled."""
    traced: jax.stages.Traced = _train_step.trace(config, program_of(spec), total_steps, state, batch)
    return traced


def traced_loss(config: ModelConfig, spec: TrainSpec, state: TrainState, batch: Batch) -> jax.stages.Traced:
    """As `traced_step`, of the loss alone, for a batch of shape "batch tokens"."""
    traced: jax.stages.Traced = _batch_loss.trace(config, program_of(spec), state, batch)
    return traced


def batch_loss(config: ModelConfig, spec: TrainSpec, state: TrainState, batch: Batch) -> Totals:
    """Loss sum in nats and count of a batch of shape "batch tokens"."""
    mesh = mesh_of(spec)
    with sharding.use(mesh):
        placed = sharding.place_batch(mesh, batch, batch_axis=0)
        totals: Totals = _batch_loss(config, program_of(spec), state, placed)
    return totals


def program_of(spec: TrainSpec) -> TrainSpec:
    """The spec with everything at its default that the compiled functions do not depend on."""
    fields = type(spec).model_fields
    return spec.model_copy(update={name: fields[name].default for name in NOT_COMPILED & set(fields)})


@partial(jax.jit, static_argnames=("config", "spec", "total_steps"), donate_argnames="state")
def _train_step(
    config: ModelConfig, spec: TrainSpec, total_steps: int, state: TrainState, batch: Batch
) -> tuple[TrainState, StepMetrics]:
    weights = trainable(state)

    def loss_of(weights: PyTree[Array], part: Batch) -> tuple[Float[Array, ""], Totals]:
        totals = _batch_loss(config, spec, with_trained(state, weights), part)
        return totals.loss, totals

    def accumulate(total: PyTree[Array], part: Batch) -> tuple[PyTree[Array], None]:
        gradient, totals = jax.grad(loss_of, has_aux=True)(weights, part)
        return jax.tree.map(jnp.add, total, (totals, gradient)), None

    first = jax.tree.map(lambda leaf: leaf[0], batch)
    shapes = jax.eval_shape(lambda: loss_of(weights, first)[1])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes, weights))
    (totals, gradient_sum), _ = jax.lax.scan(accumulate, zeros, batch)
    count = jnp.where(totals.count > 0, totals.count, 1)
    gradient = sharding.constrain_tree(config, jax.tree.map(lambda leaf: leaf / count, gradient_sum))
    updates, moments = optim.optimizer(spec.optimizer, total_steps).update(gradient, state.optimizer, weights)
    metrics = StepMetrics(
        loss=totals.loss / count,
        gradient_norm=optax.tree.norm(gradient),
        learning_rate=optim.learning_rate(spec.optimizer, total_steps)(state.step),
        measures={name: measure / count for name, measure in totals.measures.items()},
    )
    weights, moments = sharding.constrain_tree(config, (optax.apply_updates(weights, updates), moments))
    return replace(with_trained(state, weights), step=state.step + 1, optimizer=moments), metrics


@partial(jax.jit, static_argnames=("config", "spec"))
def _batch_loss(config: ModelConfig, spec: TrainSpec, state: TrainState, batch: Batch) -> Totals:
    lora_scale = lora.scale(spec.lora) if spec.lora else 0.0
    model = score(config, spec, state.params, batch, adapter=state.lora, lora_scale=lora_scale)
    teacher = score(state.teacher.config, spec, state.teacher.params, batch) if state.teacher else None
    return LOSSES[spec.method](spec, model, batch, teacher)


def score(
    config: ModelConfig,
    spec: TrainSpec,
    params: PyTree[Array],
    batch: Batch,
    *,
    adapter: PyTree[Array] | None = None,
    lora_scale: float = 0.0,
) -> Scorer:
    """What a model makes of a batch of shape "batch tokens": its states, flat, and the head that scores words."""
    segments = jnp.asarray(batch.segments)
    hidden = transformer.hidden_states(
        config,
        params,
        jnp.asarray(batch.token_ids),
        attention_mask=segments > 0,
        segments=segments if spec.packs_rows else None,
        lora=adapter,
        lora_scale=lora_scale,
    )
    head = transformer.head_of(config, params)
    return Scorer(hidden.reshape(-1, hidden.shape[-1]), head, config.logit_softcap)
