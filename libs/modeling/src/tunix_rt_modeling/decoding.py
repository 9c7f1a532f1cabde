"""Drawing tokens on the device: prefill, then one compiled loop that stops when every row has finished."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.transformer import Cache, Params, extend, init_cache, output_head


class Draw(NamedTuple):
    """How one token is drawn; temperature 0 is greedy, top_k 0 and top_p 1 keep every token."""

    temperature: float
    top_k: int
    top_p: float


GREEDY = Draw(0.0, 0, 1.0)


class Rows(NamedTuple):
    """A batch in the middle of generation: `scores` are the logits of token number `step`, not yet drawn."""

    cache: Cache
    scores: Float[Array, "batch vocab"]
    keys: Key[Array, " batch"]
    tokens: Int[Array, "batch max_new"]
    step: Int[Array, ""]
    done: Bool[Array, " batch"]


@partial(jax.jit, static_argnames=("config", "max_new", "slots"))
def prefill(
    config: ModelConfig,
    params: Params,
    token_ids: Int[Array, "batch tokens"],
    attention_mask: Bool[Array, "batch tokens"],
    keys: Key[Array, " batch"],
    done: Bool[Array, " batch"],
    *,
    max_new: int,
    slots: int,
) -> Rows:
    """Read left-padded prompts into a cache of `slots`; rows already `done` do not keep the others waiting."""
    batch, width = token_ids.shape
    hidden, cache = extend(config, params, init_cache(config, batch, width), token_ids, attention_mask)
    scores = output_head(config, params, hidden[:, -1])
    tokens = jnp.zeros((batch, max_new), jnp.int32)
    return grow(Rows(cache, scores, keys, tokens, jnp.zeros((), jnp.int32), done), slots)


def grow(rows: Rows, slots: int) -> Rows:
    """Copy the rows to a larger cache. Attention costs by the slot, so short completions do not pay for long ones."""
    free = slots - rows.cache.valid.shape[1]
    wide = [(0, 0), (0, 0), (0, 0), (0, free), (0, 0)]
    keys, values = jnp.pad(rows.cache.keys, wide), jnp.pad(rows.cache.values, wide)
    valid = jnp.pad(rows.cache.valid, [(0, 0), (0, free)])
    return rows._replace(cache=rows.cache._replace(keys=keys, values=values, valid=valid))


@partial(jax.jit, static_argnames=("config", "draw", "eos_ids"), donate_argnames=("rows",))
def decode(
    config: ModelConfig, params: Params, rows: Rows, until: int, *, draw: Draw, eos_ids: tuple[int, ...]
) -> Rows:
    """Draw tokens until every row has `until` of them or is done; a row is done after one of `eos_ids`.

    What a done row's tokens hold after that is meaningless. The caller makes sure that the cache has the slots.
    """

    def unfinished(rows: Rows) -> Bool[Array, ""]:
        return (rows.step < until) & ~jnp.all(rows.done)

    def step(rows: Rows) -> Rows:
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(rows.keys, rows.step)
        drawn = draw_tokens(draw, keys, rows.scores)
        hidden, cache = extend(config, params, rows.cache, drawn[:, None])
        return Rows(
            cache=cache,
            scores=output_head(config, params, hidden[:, 0]),
            keys=rows.keys,
            tokens=jax.lax.dynamic_update_slice(rows.tokens, drawn[:, None], (0, rows.step)),
            step=rows.step + 1,
            done=rows.done | jnp.isin(drawn, jnp.array(eos_ids, jnp.int32)),
        )

    return jax.lax.while_loop(unfinished, step, rows)


def draw_tokens(draw: Draw, keys: Key[Array, " batch"], scores: Float[Array, "batch vocab"]) -> Int[Array, " batch"]:
    """Draw one token per row with its own key.

    The logits are divided by the temperature; the `top_k` largest remain (Fan et al. 2018, arXiv:1805.04833); of
    their distribution the fewest tokens that together reach `top_p` remain (Holtzman et al. 2020, arXiv:1904.09751).
    """
    if draw.temperature == 0:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
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
