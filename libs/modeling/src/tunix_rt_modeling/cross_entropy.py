"""Cross-entropy in chunks of the vocabulary: the scores of all tokens for all words are never there at once.

Forward keeps a running maximum and sum (Milakov & Gimelshein 2018, arXiv:1805.02867); backward computes each chunk's
scores again. So memory is that of one chunk, whatever the vocabulary, for half a matrix product more.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tunix_rt_modeling.attention import soft_capped
from tunix_rt_modeling.sharding import constrain

SCORES_AT_ONCE = 2**24
"""Float32 scores of one chunk: 64 MiB."""
NARROWEST_CHUNK = 256


class Head(NamedTuple):
    """The output head's weights, with the axis that counts words: 0 for an embedding, 1 for a kernel."""

    weights: Float[Array, "..."]
    words: int


class _Running(NamedTuple):
    """What the chunks so far come to: log sum exp is maximum + log(total)."""

    maximum: Float[Array, " tokens"]
    total: Float[Array, " tokens"]
    target: Float[Array, " tokens"]


def token_losses(
    hidden: Float[Array, "tokens hidden"],
    head: Head,
    targets: Int[Array, " tokens"],
    *,
    softcap: float | None = None,
    chunk: int | None = None,
) -> Float[Array, " tokens"]:
    """-log p(target) of each token in nats, float32, with scores `hidden` · head under a soft cap.

    Products run in the dtype of `hidden` and are summed in float32. At most `chunk` words are scored at a time, in
    chunks of about equal width; unless given, as many as make 64 MiB of scores. A vocabulary that fits into one chunk
    is scored once, and its scores are kept.
    """
    weights = constrain(head.weights, None, None)
    vocab = weights.shape[head.words]
    width = chunk_width(vocab, hidden.shape[0], chunk)
    if width >= vocab:
        scores = chunk_scores(softcap, head.words, hidden, weights)
        at_targets = jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(scores, axis=1) - at_targets
    return _losses(softcap, width, head.words, hidden, weights, targets)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _losses(softcap: float | None, width: int, words: int, hidden: Array, weights: Array, targets: Array) -> Array:
    return _forward(softcap, width, words, hidden, weights, targets)[0]


def _forward(
    softcap: float | None, width: int, words: int, hidden: Array, weights: Array, targets: Array
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    vocab = weights.shape[words]

    def add_chunk(running: _Running, number: Array) -> tuple[_Running, None]:
        start, is_new = chunk_columns(number, width, vocab)
        part = jax.lax.dynamic_slice_in_dim(weights, start, width, words)
        scores = jnp.where(is_new, chunk_scores(softcap, words, hidden, part), -jnp.inf)
        maximum = jnp.maximum(running.maximum, scores.max(axis=1))
        total = running.total * jnp.exp(running.maximum - maximum) + jnp.exp(scores - maximum[:, None]).sum(axis=1)
        is_target = (start + jnp.arange(width) == targets[:, None]) & is_new
        target = running.target + jnp.sum(scores, axis=1, where=is_target)
        return _Running(maximum, total, target), None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    running, _ = jax.lax.scan(add_chunk, _Running(zeros - jnp.inf, zeros, zeros), jnp.arange(-(-vocab // width)))
    log_total = running.maximum + jnp.log(running.total)
    return log_total - running.target, (hidden, weights, targets, log_total)


def _backward(
    softcap: float | None, width: int, words: int, kept: tuple[Array, Array, Array, Array], cotangent: Array
) -> tuple[Array, Array, None]:
    hidden, weights, targets, log_total = kept
    vocab = weights.shape[words]

    def add_chunk(gradients: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        by_hidden, by_weights = gradients
        start, is_new = chunk_columns(number, width, vocab)
        part = jax.lax.dynamic_slice_in_dim(weights, start, width, words)
        scores, pull = jax.vjp(partial(chunk_scores, softcap, words), hidden, part)
        is_target = start + jnp.arange(width) == targets[:, None]
        slope = (jnp.exp(scores - log_total[:, None]) - is_target) * cotangent[:, None]
        on_hidden, on_part = pull(jnp.where(is_new, slope, 0.0))
        on_part += jax.lax.dynamic_slice_in_dim(by_weights, start, width, words)
        by_weights = jax.lax.dynamic_update_slice_in_dim(by_weights, on_part, start, words)
        return (by_hidden + on_hidden.astype(jnp.float32), by_weights), None

    zeros = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros_like(weights)
    (by_hidden, by_weights), _ = jax.lax.scan(add_chunk, zeros, jnp.arange(-(-vocab // width)))
    return by_hidden.astype(hidden.dtype), by_weights, None


_losses.defvjp(_forward, _backward)


def chunk_width(vocab: int, tokens: int, widest: int | None = None) -> int:
    """How many words to score at a time for so many tokens: at most `widest`, and chunks of about equal width."""
    widest = widest or max(NARROWEST_CHUNK, SCORES_AT_ONCE // max(1, tokens))
    return -(-vocab // -(-vocab // widest))


def chunk_columns(number: Array, width: int, vocab: int) -> tuple[Array, Array]:
    """Where a chunk begins, and which of its columns no chunk before had: the last one reaches back to be full."""
    start = jnp.minimum(number * width, vocab - width)
    return start, start + jnp.arange(width) >= number * width


def chunk_scores(softcap: float | None, words: int, hidden: Array, part: Array) -> Array:
    """Float32 scores of the words in a part of the head."""
    product = "TD,VD->TV" if words == 0 else "TD,DV->TV"
    scores = jnp.einsum(product, hidden, part.astype(hidden.dtype), preferred_element_type=jnp.float32)
    return soft_capped(scores, softcap)
