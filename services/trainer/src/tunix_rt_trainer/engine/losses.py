"""Training losses, by the name of the method.

Each returns a sum and the count to divide it by, so that micro-batches of unequal token counts add up to exactly the
loss of the whole batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tunix_rt_common.specs import DistillSpec, DpoSpec, Method, OrpoSpec, SftSpec
from tunix_rt_modeling.cross_entropy import token_losses
from tunix_rt_modeling.divergence import Scorer, token_divergences
from tunix_rt_trainer.engine.batches import Batch

SUREST = -1e-6
"""The largest mean log-probability that odds are taken of: those of a certain answer would be infinite."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Totals:
    """A loss as a sum and what to divide it by; `measures` are more sums over the same count."""

    loss: Float[Array, ""]
    count: Float[Array, ""]
    measures: Mapping[str, Float[Array, ""]]


Loss = Callable[[Any, Scorer, Batch, Scorer | None], Totals]
"""Of the method's spec, what the model and the teacher make of a batch (tokens flat), and the batch."""


def next_token_loss(spec: SftSpec, model: Scorer, batch: Batch, teacher: Scorer | None = None) -> Totals:  # noqa: ARG001
    """Sum of w_t -log p(token t | tokens before t), in nats, over the sum of the weights w_t.

    The first token of a row has nothing before it and is never counted.
    """
    losses, weights = _next_tokens(model, batch)
    return Totals(jnp.sum(losses * weights), jnp.sum(weights), {})


def distillation_loss(spec: DistillSpec, model: Scorer, batch: Batch, teacher: Scorer | None) -> Totals:
    """Sum of w_t (a T^2 KL(teacher || model at temperature T) + (1 - a) -log p(token t)) over the sum of the w_t.

    Hinton et al. 2015 (arXiv:1503.02531): T^2 keeps the gradients' size whatever the temperature.
    """
    assert teacher is not None  # noqa: S101
    losses, weights = _next_tokens(model, batch)
    divergences = token_divergences(model, teacher, temperature=spec.temperature).reshape(weights.shape)
    mixed = spec.alpha * spec.temperature**2 * divergences + (1 - spec.alpha) * losses
    measures = {"teacher_divergence": jnp.sum(divergences * weights)}
    return Totals(jnp.sum(mixed * weights), jnp.sum(weights), measures)


def direct_preference_loss(spec: DpoSpec, model: Scorer, batch: Batch, teacher: Scorer | None = None) -> Totals:  # noqa: ARG001
    """Sum of -(1 - s) log sigmoid(m) - s log sigmoid(-m) over the pairs, with label smoothing s and the margin

    m = beta (log p(chosen) / p_ref(chosen) - log p(rejected) / p_ref(rejected)): equation 7 of Rafailov et al. 2023
    (arXiv:2305.18290), smoothed as in equation 3 of Mitchell 2023 (https://ericmitchell.ai/cdpo.pdf).
    """
    assert batch.reference is not None  # noqa: S101
    log_probs, tokens = answer_log_probs(model, batch)
    rewards = spec.beta * (log_probs - jnp.asarray(batch.reference))
    margins = rewards[::2] - rewards[1::2]
    right, wrong = jax.nn.log_sigmoid(margins), jax.nn.log_sigmoid(-margins)
    return _over_pairs(-(1 - spec.label_smoothing) * right - spec.label_smoothing * wrong, margins, tokens[::2] > 0)


def odds_ratio_loss(spec: OrpoSpec, model: Scorer, batch: Batch, teacher: Scorer | None = None) -> Totals:  # noqa: ARG001
    """Sum of -log P(chosen) - l log sigmoid(log odds(chosen) / odds(rejected)) over the pairs.

    log P is the mean over an answer's tokens and odds(y) = P(y) / (1 - P(y)): equations 3 to 7 of Hong et al. 2024
    (arXiv:2403.07691). Each pair counts the same, however long its answers are.
    """
    log_probs, tokens = answer_log_probs(model, batch)
    means = jnp.where(tokens > 0, jnp.minimum(log_probs / jnp.maximum(tokens, 1), SUREST), -1.0)
    log_odds = means - jnp.log(-jnp.expm1(means))
    ratios = log_odds[::2] - log_odds[1::2]
    return _over_pairs(-means[::2] - spec.ratio_weight * jax.nn.log_sigmoid(ratios), ratios, tokens[::2] > 0)


def answer_log_probs(model: Scorer, batch: Batch) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Log-probability of each row's trained tokens given what is before them, and how many these are."""
    losses, weights = _next_tokens(model, batch)
    return -jnp.sum(losses * weights, axis=1), jnp.sum(weights, axis=1)


def _next_tokens(model: Scorer, batch: Batch) -> tuple[Float[Array, "batch tokens"], Float[Array, "batch tokens"]]:
    """At each place, the loss of the token that follows, and how much it counts."""
    targets = jnp.roll(jnp.asarray(batch.token_ids), -1, axis=1)
    weights = jnp.roll(jnp.asarray(batch.loss_weights, jnp.float32), -1, axis=1).at[:, -1].set(0)
    losses = token_losses(model.hidden, model.head, targets.reshape(-1), softcap=model.softcap)
    return losses.reshape(weights.shape), weights


def _over_pairs(
    losses: Float[Array, " pairs"], margins: Float[Array, " pairs"], counted: Bool[Array, " pairs"]
) -> Totals:
    measures = {
        "reward_margin": jnp.sum(margins, where=counted),
        "preference_accuracy": jnp.sum(margins > 0, where=counted, dtype=jnp.float32),
    }
    return Totals(jnp.sum(losses, where=counted), jnp.sum(counted, dtype=jnp.float32), measures)


LOSSES: Mapping[Method, Loss] = MappingProxyType(
    {
        "sft": next_token_loss,
        "dpo": direct_preference_loss,
        "orpo": odds_ratio_loss,
        "distill": distillation_loss,
    }
)
