"""The decoder: pure functions of (config, params, tokens) over the modules in `layers`.

Parameters are nested dicts named as in Hugging Face checkpoints; the layers are stacked on a leading axis and run by
one scan, so compile time does not grow with depth. Kernels are [in, out].
Positions beyond `max_positions` are computed, not refused: callers check lengths.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tunix_rt_modeling.attention import soft_capped
from tunix_rt_modeling.config import LinearRope, Llama3Rope, ModelConfig, Rope
from tunix_rt_modeling.cross_entropy import Head
from tunix_rt_modeling.layers import Context, Decoder, View

Params = dict[str, Any]
Rotation = tuple[Float[Array, "batch tokens 1 head_dim"], Float[Array, "batch tokens 1 head_dim"]]


def init_params(config: ModelConfig, key: Array) -> Params:
    """Draw fresh float32 weights.

    Kernels are normal with variance 1/fan_in, those that write to the residual stream 1/(2 L fan_in) as in GPT-2;
    embeddings have standard deviation 0.02.
    """
    body_key, head_key = jax.random.split(key)
    tokens = jnp.zeros((1, 1), jnp.int32)
    context = _context(config, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    params: Params = jax.jit(Decoder(config).init)(body_key, tokens, context)["params"]
    if not config.tie_embeddings:
        kernel = 0.02 * jax.random.normal(head_key, (config.hidden_size, config.vocab_size), jnp.float32)
        params["lm_head"] = {"kernel": kernel}
    return params


def parameter_count(params: Params) -> int:
    """Return the number of weights; tied embeddings count once."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def logits(
    config: ModelConfig,
    params: Params,
    token_ids: Int[Array, "batch tokens"],
    *,
    attention_mask: Bool[Array, "batch tokens"] | None = None,
    segments: Int[Array, "batch tokens"] | None = None,
    positions: Int[Array, "batch tokens"] | None = None,
    lora: Params | None = None,
    lora_scale: float | Float[Array, ""] = 0.0,
) -> Float[Array, "batch tokens vocab"]:
    """Score every next token (float32, causal); arguments as for `hidden_states`."""
    hidden = hidden_states(
        config,
        params,
        token_ids,
        attention_mask=attention_mask,
        segments=segments,
        positions=positions,
        lora=lora,
        lora_scale=lora_scale,
    )
    return output_head(config, params, hidden)


def hidden_states(
    config: ModelConfig,
    params: Params,
    token_ids: Int[Array, "batch tokens"],
    *,
    attention_mask: Bool[Array, "batch tokens"] | None = None,
    segments: Int[Array, "batch tokens"] | None = None,
    positions: Int[Array, "batch tokens"] | None = None,
    lora: Params | None = None,
    lora_scale: float | Float[Array, ""] = 0.0,
) -> Float[Array, "batch tokens hidden"]:
    """Run the decoder up to and including the last norm.

    `attention_mask` is False on padding, at either side; outputs there are finite and meaningless. Several texts may
    lie in one row, each with a number of its own in `segments`: a token sees those of its segment alone.
    Positions count the tokens of a segment that are not padding, unless given. `lora` adds `lora_scale` * A B to each
    adapted kernel.
    """
    valid = jnp.ones(token_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    if positions is None:
        positions = _count_positions(valid, segments)
    context = _context(config, positions, valid, segments)
    hidden: Float[Array, "batch tokens hidden"] = Decoder(config).apply(
        _variables(params, lora, lora_scale), token_ids, context
    )
    return hidden


def output_head(
    config: ModelConfig, params: Params, hidden: Float[Array, "*batch hidden"]
) -> Float[Array, "*batch vocab"]:
    """Project hidden states to float32 logits. A loss does it in chunks: `token_losses`."""
    weights, words = head_of(config, params)
    product = "...D,VD->...V" if words == 0 else "...D,DV->...V"
    scores = jnp.einsum(product, hidden, weights.astype(config.compute_dtype))
    return soft_capped(scores.astype(jnp.float32), config.logit_softcap)


def head_of(config: ModelConfig, params: Params) -> Head:
    """The weights that score words: the embedding's own where they are tied."""
    if config.tie_embeddings:
        return Head(params["embed_tokens"]["embedding"], 0)
    return Head(params["lm_head"]["kernel"], 1)


def segmented(config: ModelConfig, segments: Int[Array, "batch tokens"]) -> Context:
    """What layers share when several texts lie in a row, each with a number of its own: no token sees another's."""
    valid = jnp.ones(segments.shape, bool)
    return _context(config, _count_positions(valid, segments), valid, segments)


def _count_positions(
    valid: Bool[Array, "batch tokens"], segments: Int[Array, "batch tokens"] | None = None
) -> Int[Array, "batch tokens"]:
    """Number the tokens that are not padding from 0, as transformers does, in each segment anew."""
    counted = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
    if segments is None:
        return counted
    begins = jnp.diff(segments, axis=1, prepend=segments[:, :1]) != 0
    return counted - jax.lax.cummax(jnp.where(begins, counted, 0), axis=1)


def _variables(params: Params, lora: Params | None, scale: float | Float[Array, ""]) -> Params:
    if lora is None:
        return {"params": params}
    scaled = jax.tree.map_with_path(lambda path, leaf: leaf * scale if path[-1].key == "b" else leaf, lora)
    return {"params": params, "lora": scaled}


def _context(
    config: ModelConfig,
    positions: Int[Array, "batch tokens"],
    valid: Bool[Array, "batch tokens"],
    segments: Int[Array, "batch tokens"] | None = None,
) -> Context:
    """What layers share when tokens lie at `positions`."""
    order = jnp.arange(positions.shape[1])
    distance = order[:, None] - order[None, :]
    causal = (distance >= 0) & valid[:, None, :]
    if segments is not None:
        causal &= segments[:, :, None] == segments[:, None, :]
    full, sliding = rotations(config, positions)
    views = []
    if not config.sliding_layers or not all(config.sliding_layers):
        views.append(View(*full, causal))
    if any(config.sliding_layers):
        near = causal & (distance < (config.sliding_window or 0))
        views.append(View(*sliding, near))
    return Context(tuple(views))


def rotations(config: ModelConfig, positions: Int[Array, "batch tokens"]) -> tuple[Rotation, Rotation]:
    """Cosine and sine of each position's angles, in full layers and in sliding ones."""
    return (
        _rotation(config, config.rope, positions),
        _rotation(config, config.sliding_rope or config.rope, positions),
    )


def _rotation(config: ModelConfig, rope: Rope, positions: Int[Array, "batch tokens"]) -> Rotation:
    half = positions[:, :, None].astype(jnp.float32) * _inverse_frequencies(config.head_dim, rope)
    angles = jnp.concatenate([half, half], axis=-1)[:, :, None, :]
    return jnp.cos(angles), jnp.sin(angles)


def _inverse_frequencies(head_dim: int, rope: Rope) -> Float[Array, " half"]:
    """Rotary frequencies in radians per position (Su et al. 2021, arXiv:2104.09864)."""
    exponents = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    frequencies = 1.0 / rope.theta**exponents
    if isinstance(rope.scaling, LinearRope):
        return frequencies / rope.scaling.factor
    return frequencies if rope.scaling is None else _stretch(frequencies, rope.scaling)


def _stretch(frequencies: Float[Array, " half"], rope: Llama3Rope) -> Float[Array, " half"]:
    """Divide low frequencies by `factor`, keep high ones, blend between (Llama 3.1, rope_type "llama3")."""
    turns = rope.original_max_positions * frequencies / (2 * jnp.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = jnp.clip(blend, 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / rope.factor
