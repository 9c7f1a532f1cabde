"""The device's part of generation: read prompts, let them join a batch, and draw many tokens in one dispatch.

The programs that take most of the time exist twice: for a batch that has the whole device, and for one that has a core
to itself (`Programs`).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from tunix_rt_modeling import inference, kvcache
from tunix_rt_modeling.attention import soft_capped
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.drawing import Draw, draw_tokens, log_probabilities
from tunix_rt_modeling.inference import Turn, Weights
from tunix_rt_modeling.kvcache import LayerRing, Ring, Spans
from tunix_rt_modeling.transformer import rotations

_MASKED = -1e30


class Rows(NamedTuple):
    """A batch's rows. `tokens` were drawn last, with `logprobs`, and are not in the cache; `lengths` are."""

    lengths: Int[Array, " B"]
    tokens: Int[Array, " B"]
    logprobs: Float[Array, " B"]
    drawn: Int[Array, " B"]
    limits: Int[Array, " B"]
    seeds: UInt32[Array, " B"]
    done: Bool[Array, " B"]


class Batch(NamedTuple):
    """A batch in the middle of generation; `head` is the number of the step to come."""

    ring: Ring
    head: Int[Array, ""]
    rows: Rows


class Prompts(NamedTuple):
    """Prompts that were read, each once however many rows will continue it; `scores` are those of the first token."""

    keys: Float[Array, "layers kv_heads tokens head_dim"]
    values: Float[Array, "layers kv_heads tokens head_dim"]
    spans: Spans
    scores: Float[Array, "prompts vocab"]


class Segment(NamedTuple):
    """What a dispatch drew: the token that each row brought along and those that followed, until it was done."""

    tokens: Int[Array, "B tokens"]
    logprobs: Float[Array, "B tokens"]
    drawn: Int[Array, " B"]
    done: Bool[Array, " B"]


class Drawing(NamedTuple):
    """What the rows of a batch have in common: how they draw, and which tokens end them. Compiled into the programs."""

    draw: Draw
    eos_ids: tuple[int, ...]


def empty_batch(config: ModelConfig, rows: int, slots: int) -> Batch:
    """Allocate a batch whose rows are all free."""
    zeros = jnp.zeros(rows, jnp.int32)
    free = Rows(zeros, zeros, zeros.astype(jnp.float32), zeros, zeros, zeros.astype(jnp.uint32), jnp.ones(rows, bool))
    # Each field a buffer of its own: they are donated.
    return Batch(kvcache.empty_ring(config, rows, slots), jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, free))


def resize(config: ModelConfig, batch: Batch, rows: Int[Array, " kept"] | None, slots: int) -> Batch:
    """Return the given rows, or all, as a batch with room for `slots` tokens in each."""
    kept = batch.rows if rows is None else jax.tree.map(lambda field: field[rows], batch.rows)
    return Batch(kvcache.resize(config, batch.ring, batch.head, rows, slots), batch.head, kept)


def _read_prompts(
    config: ModelConfig,
    weights: Weights,
    token_ids: Int[Array, " tokens"],
    segments: Int[Array, " tokens"],
    spans: Spans,
) -> Prompts:
    """Read prompts that lie one after the other, each with a number of its own in `segments`."""
    last = spans.starts + spans.lengths - 1
    scores, keys, values = inference.read(config, weights, token_ids, segments, last)
    return Prompts(keys, values, spans, scores)


@partial(jax.jit, static_argnames="how", donate_argnames="batch")
def join(
    batch: Batch,
    prompts: Prompts,
    sources: Int[Array, " B"],
    limits: Int[Array, " B"],
    seeds: UInt32[Array, " B"],
    root: Key[Array, ""],
    *,
    how: Drawing,
) -> Batch:
    """Let prompts join: row b continues prompt `sources[b]` with at most `limits[b]` tokens, and draws the first.

    A negative source leaves its row as it is. Several rows may continue one prompt.
    """
    joins = sources >= 0
    ring = tuple(
        kvcache.insert(layer, batch.head, keys, values, prompts.spans, sources)
        for layer, keys, values in zip(batch.ring, prompts.keys, prompts.values, strict=True)
    )
    none = jnp.zeros_like(sources)
    blank = Rows(prompts.spans.lengths[sources], none, none.astype(jnp.float32), none, limits, seeds, ~joins)
    fresh = _draw(blank, prompts.scores[sources], root, how)
    return Batch(ring, batch.head, jax.tree.map(partial(jnp.where, joins), fresh, batch.rows))


def _decode(
    config: ModelConfig,
    weights: Weights,
    batch: Batch,
    kept: Bool[Array, " B"],
    enough: int,
    root: Key[Array, ""],
    *,
    how: Drawing,
    steps: int,
) -> tuple[Batch, Segment]:
    """Draw up to `steps` tokens for each row, fewer once `enough` rows are done; rows not `kept` are done at once.

    The caller makes sure that the rings have the slots.
    """
    rows = batch.rows._replace(done=batch.rows.done | ~kept)
    tokens, logprobs = (jnp.zeros((len(kept), steps + 1), part.dtype) for part in (rows.tokens, rows.logprobs))

    def unfinished(carry: tuple[Array, Batch, Array, Array]) -> Bool[Array, ""]:
        return (carry[0] < steps) & (carry[1].rows.done.sum() < enough)

    # XLA on CPU would compute sines and cosines in every operation that reads them: here it does once per segment.
    angles = rotations(config, jnp.arange(steps)[:, None] + rows.lengths)

    def step(carry: tuple[Array, Batch, Array, Array]) -> tuple[Array, Batch, Array, Array]:
        number, batch, tokens, logprobs = carry
        scores, batch = _feed(config, weights, batch, jax.tree.map(lambda part: part[number], angles))
        rows = _draw(batch.rows, scores, root, how)
        return (number + 1, batch._replace(rows=rows), *_note(rows, tokens, logprobs, number + 1))

    begun = (jnp.zeros((), jnp.int32), batch._replace(rows=rows), *_note(rows, tokens, logprobs, 0))
    _, batch, tokens, logprobs = jax.lax.while_loop(unfinished, step, begun)
    return batch, Segment(tokens, logprobs, batch.rows.drawn, batch.rows.done)


def _note(rows: Rows, tokens: Array, logprobs: Array, column: Array | int) -> tuple[Array, Array]:
    """Write what was drawn last into its column."""
    put = partial(jax.lax.dynamic_update_slice, start_indices=(0, column))
    return put(tokens, rows.tokens[:, None]), put(logprobs, rows.logprobs[:, None])


def _draw(rows: Rows, scores: Float[Array, "B vocab"], root: Key[Array, ""], how: Drawing) -> Rows:
    """Draw the next token of the rows that are not done, each from the stream of its own seed."""

    def row_key(seed: UInt32[Array, ""], number: Int[Array, ""]) -> Key[Array, ""]:
        return jax.random.fold_in(jax.random.fold_in(root, seed), number)

    tokens = draw_tokens(how.draw, jax.vmap(row_key)(rows.seeds, rows.drawn), scores)
    drawn = rows.drawn + ~rows.done
    done = rows.done | jnp.isin(tokens, jnp.array(how.eos_ids, jnp.int32)) | (drawn == rows.limits)
    return rows._replace(tokens=tokens, logprobs=log_probabilities(scores, tokens), drawn=drawn, done=done)


def _feed(
    config: ModelConfig, weights: Weights, batch: Batch, turns: tuple[Turn, Turn]
) -> tuple[Float[Array, "B vocab"], Batch]:
    """Append each row's last token to the cache and score the next."""
    rows, head = batch.rows, batch.head + 1
    lengths = rows.lengths + ~rows.done
    masks = {slots: kvcache.visible(head, slots, lengths) for slots in {layer.slots for layer in batch.ring}}
    hidden, ring = inference.embed(config, weights, rows.tokens), []
    for layer, stored, slides in zip(weights.layers, batch.ring, inference.slides(config), strict=True):
        heads = inference.heads_of(config, layer, hidden, turns[slides])
        ring.append(kvcache.write(stored, batch.head, heads.key, heads.value))
        attended = _attend(config, heads.query, ring[-1], masks[stored.slots])
        hidden = inference.add_branches(config, layer, hidden, attended)
    scores = inference.score(config, weights, hidden)
    return scores, Batch(tuple(ring), head, rows._replace(lengths=lengths))


def _attend(
    config: ModelConfig, query: Float[Array, "B H K"], ring: LayerRing, mask: Bool[Array, "B S"]
) -> Float[Array, "B HK"]:
    """Attend to all that each row remembers."""
    grouped = query.reshape(len(ring.keys), -1, config.head_dim) * inference.query_scale(config)
    scores = soft_capped((grouped @ ring.keys).astype(jnp.float32), config.attention_softcap)
    seen = jnp.where(mask[:, None], scores.reshape(len(query), -1, ring.slots), _MASKED)
    shares = jax.nn.softmax(seen, axis=-1).astype(ring.values.dtype).reshape(scores.shape)
    return (shares @ ring.values).reshape(len(query), -1)


class Programs(NamedTuple):
    """`_read_prompts` and `_decode`, compiled."""

    read_prompts: Callable[..., Prompts]
    decode: Callable[..., tuple[Batch, Segment]]


def _compile(**options: bool | int) -> Programs:
    return Programs(
        jax.jit(_read_prompts, static_argnames="config", compiler_options=options),
        jax.jit(_decode, static_argnames=("config", "how", "steps"), donate_argnames="batch", compiler_options=options),
    )


_WIDE_VECTORS = {"xla_cpu_prefer_vector_width": 512}
"""Other than XLA's default of 256 bits: a step for few rows is loops rather than products. No other device asks."""
WHOLE_DEVICE = _compile(**_WIDE_VECTORS)
ONE_CORE = _compile(**_WIDE_VECTORS, xla_cpu_multi_thread_eigen=False)
