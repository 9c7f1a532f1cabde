"""The optimizer: clipping by global norm, then AdamW, on a warm-up and decay schedule."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from tunix_rt_common.specs import OptimizerSpec

Schedule = Callable[[int | Int[Array, ""]], Float[Array, ""]]


def learning_rate(spec: OptimizerSpec, total_steps: int) -> Schedule:
    """The rate of step s = 0, 1, … total_steps - 1, for peak rate r, warm-up w and final fraction f.

    Warm-up: r (s + 1) / w, so the first step already learns and step w - 1 has the full rate. Then, with
    p = (s - w) / (total_steps - w): r (1 - (1 - f) p) when linear, r (f + (1 - f) (1 + cos πp) / 2) when cosine
    (Loshchilov & Hutter 2017, arXiv:1608.03983), r when constant. The end, r f, would come one step after the last.
    """
    schedule = spec.schedule

    def rate(step: int | Int[Array, ""]) -> Float[Array, ""]:
        warmup = jnp.minimum(1.0, (step + 1) / max(schedule.warmup_steps, 1))
        progress = (step - schedule.warmup_steps) / max(total_steps - schedule.warmup_steps, 1)
        decay = _decay(schedule.kind, jnp.clip(progress, 0.0, 1.0))
        return spec.learning_rate * warmup * (schedule.final_fraction + (1.0 - schedule.final_fraction) * decay)

    return rate


def _decay(kind: Literal["constant", "linear", "cosine"], progress: Float[Array, ""]) -> Float[Array, ""]:
    """How much of the way down is left: 1 at progress 0; at progress 1 it is 0, or still 1 when constant."""
    if kind == "constant":
        return jnp.ones_like(progress)
    if kind == "linear":
        return 1.0 - progress
    return (1.0 + jnp.cos(jnp.pi * progress)) / 2.0


def optimizer(spec: OptimizerSpec, total_steps: int) -> optax.GradientTransformation:
    """Clip the gradient to global norm `clip_norm`, then AdamW (arXiv:1711.05101) with decay λ scaled by the rate.

    The decay reaches every trained parameter, norms and biases too: θ <- θ - η (m̂ / (√v̂ + ε) + λ θ).
    """
    return optax.chain(
        optax.clip_by_global_norm(spec.clip_norm),
        optax.adamw(
            learning_rate(spec, total_steps),
            b1=spec.beta1,
            b2=spec.beta2,
            eps=spec.epsilon,
            weight_decay=spec.weight_decay,
        ),
    )
