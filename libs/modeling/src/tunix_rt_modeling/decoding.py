"""The device's part of generation: read prompts, let them join a batch, and draw many tokens in one dispatch.

Prompts are read by the decoder of `layers`. A step of one token per row computes the same from weights in another
form (`fuse`): a matrix per product and layer, so that no step slices stacked weights, and a program per batch shape.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from tunix_rt_modeling import kvcache
from tunix_rt_modeling.attention import soft_capped
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.drawing import Draw, draw_tokens, log_probabilities
from tunix_rt_modeling.kvcache import LayerRing, Ring, Spans
from tunix_rt_modeling.layers import ACTIVATIONS, RMSNorm
from tunix_rt_modeling.transformer import Params, Rotation, head_of, output_head, read, rotations

_MASKED = -1e30
_WIDE_VECTORS = {"xla_cpu_prefer_vector_width": 512}
"""Other than XLA's default of 256 bits: a step for few rows is loops rather than products. No other device asks."""


class Projection(NamedTuple):
    """x W + b in the compute dtype."""

    kernel: Float[Array, "inputs features"]
    bias: Float[Array, " features"] | None

    def __call__(self, x: Float[Array, "B inputs"]) -> Float[Array, "B features"]:
        """Project the last axis."""
        return x @ self.kernel if self.bias is None else x @ self.kernel + self.bias


class LayerWeights(NamedTuple):
    """One layer: what shares an input is one product; `norms` are the scales by name."""

    query_key_value: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    norms: dict[str, Float[Array, " size"]]


class Weights(NamedTuple):
    """A model as `decode` reads it: a second copy of the weights, in the compute dtype, but for the embedding."""

    embedding: Float[Array, "vocab hidden"]
    layers: tuple[LayerWeights, ...]
    norm: Float[Array, " hidden"]
    head: Float[Array, "hidden vocab"]


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


def fuse(config: ModelConfig, params: Params) -> Weights:
    """Return the weights in the form that `decode` takes."""
    layers, head = _fuse(config, params)
    return Weights(params["embed_tokens"]["embedding"], layers, params["norm"]["scale"], head)


class _View(NamedTuple):
    """What a layer sees: the angles of the rows' positions, and the slots that hold their tokens."""

    cos: Float[Array, "B 1 K"]
    sin: Float[Array, "B 1 K"]
    mask: Bool[Array, "B S"]


@partial(jax.jit, static_argnames="config")
def _fuse(config: ModelConfig, params: Params) -> tuple[tuple[LayerWeights, ...], Float[Array, "hidden vocab"]]:
    def project(layer: Params, *names: str) -> Projection:
        linears = [layer[name] for name in names]
        kernel = jnp.concatenate([linear["kernel"] for linear in linears], axis=-1).astype(config.compute_dtype)
        if "bias" not in linears[0]:
            return Projection(kernel, None)
        return Projection(kernel, jnp.concatenate([linear["bias"] for linear in linears]).astype(config.compute_dtype))

    def unstack(layer: int) -> LayerWeights:
        own = jax.tree.map(lambda stacked: stacked[layer], params["layers"])
        attention, mlp = own["self_attn"], own["mlp"]
        return LayerWeights(
            query_key_value=project(attention, "q_proj", "k_proj", "v_proj"),
            out=project(attention, "o_proj"),
            gate_up=project(mlp, "gate_proj", "up_proj"),
            down=project(mlp, "down_proj"),
            norms={name: part["scale"] for name, part in (own | attention).items() if "scale" in part},
        )

    weights, words = head_of(config, params)
    head = weights.T if words == 0 else weights
    return tuple(map(unstack, range(config.num_layers))), head.astype(config.compute_dtype)


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


@partial(jax.jit, static_argnames="config")
def read_prompts(
    config: ModelConfig, params: Params, token_ids: Int[Array, " tokens"], segments: Int[Array, " tokens"], spans: Spans
) -> Prompts:
    """Read prompts that lie one after the other, each with a number of its own in `segments`."""
    hidden, keys, values = read(config, params, token_ids[None], segments[None])
    last = hidden[0, spans.starts + spans.lengths - 1]
    return Prompts(keys[:, 0], values[:, 0], spans, output_head(config, params, last))


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


@partial(jax.jit, static_argnames=("config", "how", "steps"), donate_argnames="batch", compiler_options=_WIDE_VECTORS)
def decode(
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
    config: ModelConfig, weights: Weights, batch: Batch, angles: tuple[Rotation, Rotation]
) -> tuple[Float[Array, "B vocab"], Batch]:
    """Append each row's last token to the cache and score the next."""
    rows, head = batch.rows, batch.head + 1
    lengths = rows.lengths + ~rows.done
    masks = {slots: kvcache.visible(head, slots, lengths) for slots in {layer.slots for layer in batch.ring}}
    slides = config.sliding_layers or (False,) * config.num_layers
    hidden = weights.embedding[rows.tokens].astype(config.compute_dtype)
    if config.scaled_embeddings:
        hidden *= jnp.sqrt(config.hidden_size).astype(hidden.dtype)
    ring = []
    for layer, stored, sliding in zip(weights.layers, batch.ring, slides, strict=True):
        view = _View(*angles[sliding], masks[stored.slots])
        hidden, extended = _layer(config, layer, hidden, stored, batch.head, view)
        ring.append(extended)
    scores = soft_capped((_norm(config, weights.norm, hidden) @ weights.head).astype(jnp.float32), config.logit_softcap)
    return scores, Batch(tuple(ring), head, rows._replace(lengths=lengths))


def _layer(
    config: ModelConfig,
    weights: LayerWeights,
    hidden: Float[Array, "B D"],
    ring: LayerRing,
    head: Int[Array, ""],
    view: _View,
) -> tuple[Float[Array, "B D"], LayerRing]:
    """One layer for one token of each row: the arithmetic of `layers.Layer`."""

    def normed(name: str, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return _norm(config, weights.norms[name], x)

    attended, ring = _attention(config, weights, normed("input_layernorm", hidden), ring, head, view)
    if config.normed_branches:
        attended = normed("post_attention_layernorm", attended)
    hidden += attended
    before = "pre_feedforward_layernorm" if config.normed_branches else "post_attention_layernorm"
    gate, up = jnp.split(weights.gate_up(normed(before, hidden)), 2, axis=-1)
    added = weights.down(ACTIVATIONS[config.activation](gate) * up)
    if config.normed_branches:
        added = normed("post_feedforward_layernorm", added)
    return hidden + added, ring


def _attention(
    config: ModelConfig,
    weights: LayerWeights,
    normed: Float[Array, "B D"],
    ring: LayerRing,
    head: Int[Array, ""],
    view: _View,
) -> tuple[Float[Array, "B D"], LayerRing]:
    """Write the token's key and value, then attend to all that the row remembers."""
    heads = weights.query_key_value(normed).reshape(len(normed), -1, config.head_dim)
    query, key, value = jnp.split(heads, (config.num_heads, config.num_heads + config.num_kv_heads), axis=1)
    if config.normed_queries:
        query, key = (_norm(config, weights.norms[name], x) for name, x in (("q_norm", query), ("k_norm", key)))
    ring = kvcache.write(ring, head, _rotate(key, view), value)
    scale = config.query_scale or config.head_dim**-0.5
    grouped = _rotate(query, view).reshape(len(ring.keys), -1, config.head_dim) * scale
    scores = soft_capped((grouped @ ring.keys).astype(jnp.float32), config.attention_softcap)
    seen = jnp.where(view.mask[:, None], scores.reshape(len(normed), -1, ring.slots), _MASKED)
    shares = jax.nn.softmax(seen, axis=-1).astype(ring.values.dtype).reshape(scores.shape)
    return weights.out((shares @ ring.values).reshape(len(normed), -1)), ring


def _rotate(x: Float[Array, "B heads K"], view: _View) -> Float[Array, "B heads K"]:
    """Turn by the position's angle. The halves change places in a product: exact, and XLA on CPU moves them slowly."""
    half = jnp.eye(x.shape[-1] // 2, dtype=x.dtype)
    turned = x @ jnp.block([[jnp.zeros_like(half), half], [-half, jnp.zeros_like(half)]])
    return (x * view.cos + turned * view.sin).astype(x.dtype)


def _norm(config: ModelConfig, scale: Float[Array, " size"], x: Float[Array, "... size"]) -> Float[Array, "... size"]:
    norm = RMSNorm(config.rms_norm_eps, float(config.offset_norms))
    normed: Float[Array, "... size"] = norm.apply({"params": {"scale": scale}}, x)
    return normed
