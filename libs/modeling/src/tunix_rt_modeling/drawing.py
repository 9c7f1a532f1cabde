"""Drawing one token per row from its scores."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Draw(NamedTuple):
    """How one token is drawn; temperature 0 is greedy, top_k 0 and top_p 1 keep every token."""

    temperature: float
    top_k: int
    top_p: float


GREEDY = Draw(0.0, 0, 1.0)


def draw_tokens(draw: Draw, keys: Key[Array, " batch"], scores: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
    """Draw one token per row with its own key.

    The logits are divided by the temperature; the `top_k` largest remain (Fan et al. 2018, arXiv:1805.04833); of
    their distribution the fewest tokens that together reach `top_p` remain (Holtzman et al. 2020, arXiv:1904.09751).
    """
    if draw.temperature == 0:
        return _first_largest(scores)
    scaled = scores / draw.temperature
    if draw.top_k == 0 and draw.top_p == 1:
        return jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
    vocab = scores.shape[-1]
    kept, token_ids = jax.lax.top_k(scaled, min(draw.top_k or vocab, vocab))
    probabilities = jax.nn.softmax(kept, axis=-1)
    mass_before = jnp.cumsum(probabilities, axis=-1) - probabilities
    kept = jnp.where(mass_before < draw.top_p, kept, -jnp.inf)
    ranks = jax.vmap(jax.random.categorical)(keys, kept)
    return jnp.take_along_axis(token_ids, ranks[:, None], axis=-1)[:, 0].astype(jnp.int32)


def log_probabilities(scores: Float[Array, "batch vocab"], tokens: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """The log-probability (natural, float32) of each row's token by the model alone: no temperature, nothing cut."""
    drawn = jnp.take_along_axis(scores, tokens[:, None], axis=-1)[:, 0]
    return drawn - jax.nn.logsumexp(scores, axis=-1)


def _first_largest(scores: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
    """The argmax, as two float maxima: XLA's own on CPU takes six times as long. A row of NaN gives the last id."""
    vocab = scores.shape[-1]
    largest = scores == scores.max(axis=-1, keepdims=True)
    from_the_end = jnp.where(largest, jnp.arange(vocab, 0, -1, dtype=jnp.float32), 1.0).max(axis=-1)
    return vocab - from_the_end.astype(jnp.int32)
