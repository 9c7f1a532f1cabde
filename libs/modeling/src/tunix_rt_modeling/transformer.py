"""The decoder: pure functions of (config, params, tokens) over the modules in `layers`.

Parameters are nested dicts named as in Hugging Face checkpoints; the layers are stacked on a leading axis and run by
one scan, so compile time does not grow with depth. Kernels are [in, out].
Positions beyond `max_positions` are computed, not refused: callers check lengths.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tunix_rt_modeling.config import Llama3Rope, ModelConfig
from tunix_rt_modeling.layers import Context, Decoder, Stream

Params = dict[str, Any]


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far; slots `length` and up are free. `valid` is False on padding."""

    keys: Float[Array, "layers batch kv_heads slots head_dim"]
    values: Float[Array, "layers batch kv_heads slots head_dim"]
    valid: Bool[Array, "batch slots"]
    length: Int[Array, ""]


def init_params(config: ModelConfig, key: Array) -> Params:
    """Draw fresh float32 weights.

    Kernels are normal with variance 1/fan_in, those that write to the residual stream 1/(2 L fan_in) as in GPT-2;
    embeddings have standard deviation 0.02.
    """
    body_key, head_key = jax.random.split(key)
    tokens = jnp.zeros((1, 1), jnp.int32)
    context = _context(config, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1, 1), bool), 0)
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
    positions: Int[Array, "batch tokens"] | None = None,
    lora: Params | None = None,
    lora_scale: float | Float[Array, ""] = 0.0,
) -> Float[Array, "batch tokens hidden"]:
    """Run the decoder up to and including the last norm.

    `attention_mask` is False on padding, at either side; outputs there are finite and meaningless. Positions count
    the tokens that are not padding unless given. `lora` adds `lora_scale` * A B to each adapted kernel.
    """
    valid = jnp.ones(token_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    if positions is None:
        positions = _count_positions(valid)
    slots = jnp.arange(token_ids.shape[1])
    mask = (slots[:, None] >= slots[None, :]) & valid[:, None, :]
    context = _context(config, positions, mask, 0)
    stream: Stream = Decoder(config).apply(_variables(params, lora, lora_scale), token_ids, context)
    return stream.hidden


def output_head(
    config: ModelConfig, params: Params, hidden: Float[Array, "*batch hidden"]
) -> Float[Array, "*batch vocab"]:
    """Project hidden states to float32 logits; kept apart so that a loss may do it in chunks."""
    dtype = jnp.dtype(config.compute_dtype)
    if config.tie_embeddings:
        scores = jnp.einsum("...D,VD->...V", hidden, params["embed_tokens"]["embedding"].astype(dtype))
    else:
        scores = jnp.einsum("...D,DV->...V", hidden, params["lm_head"]["kernel"].astype(dtype))
    return scores.astype(jnp.float32)


def init_cache(config: ModelConfig, batch: int, length: int) -> Cache:
    """Return an empty cache with `length` slots per row, in the compute dtype."""
    shape = (config.num_layers, batch, config.num_kv_heads, length, config.head_dim)
    zeros = jnp.zeros(shape, config.compute_dtype)
    return Cache(zeros, zeros, jnp.zeros((batch, length), bool), jnp.zeros((), jnp.int32))


def extend(
    config: ModelConfig,
    params: Params,
    cache: Cache,
    token_ids: Int[Array, "batch tokens"],
    attention_mask: Bool[Array, "batch tokens"] | None = None,
) -> tuple[Float[Array, "batch tokens hidden"], Cache]:
    """Append tokens to the cache and return their hidden states: the prefill (many tokens) and each decode step (one).

    All rows write the same slots, so prompts of different lengths are padded at the left (mask False). The caller
    makes sure that the free slots suffice.
    """
    fresh = jnp.ones(token_ids.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    positions = _count_positions(fresh) + cache.valid.sum(axis=1, keepdims=True)
    valid = jax.lax.dynamic_update_slice(cache.valid, fresh, (0, cache.length))
    slots = jnp.arange(valid.shape[1])
    writes = cache.length + jnp.arange(token_ids.shape[1])
    mask = (writes[:, None] >= slots[None, :]) & valid[:, None, :]
    context = _context(config, positions, mask, cache.length)
    stream = Decoder(config).apply({"params": params}, token_ids, context, cache.keys, cache.values)
    return stream.hidden, Cache(stream.keys, stream.values, valid, cache.length + token_ids.shape[1])


def _count_positions(valid: Bool[Array, "batch tokens"]) -> Int[Array, "batch tokens"]:
    """Number the tokens that are not padding from 0, as transformers does."""
    return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)


def _variables(params: Params, lora: Params | None, scale: float | Float[Array, ""]) -> Params:
    if lora is None:
        return {"params": params}
    scaled = jax.tree.map_with_path(lambda path, leaf: leaf * scale if path[-1].key == "b" else leaf, lora)
    return {"params": params, "lora": scaled}


def _context(
    config: ModelConfig,
    positions: Int[Array, "batch tokens"],
    mask: Bool[Array, "batch tokens slots"],
    start: Int[Array, ""] | int,
) -> Context:
    half = positions[:, :, None].astype(jnp.float32) * _inverse_frequencies(config)
    angles = jnp.concatenate([half, half], axis=-1)[:, :, None, :]
    return Context(jnp.cos(angles), jnp.sin(angles), mask, start)


def _inverse_frequencies(config: ModelConfig) -> Float[Array, " half"]:
    """Rotary frequencies in radians per position (Su et al. 2021, arXiv:2104.09864)."""
    exponents = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    return frequencies if config.rope_scaling is None else _stretch(frequencies, config.rope_scaling)


def _stretch(frequencies: Float[Array, " half"], rope: Llama3Rope) -> Float[Array, " half"]:
    """Divide low frequencies by `factor`, keep high ones, blend between (Llama 3.1, rope_type "llama3")."""
    turns = rope.original_max_positions * frequencies / (2 * jnp.pi)
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = jnp.clip(blend, 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / rope.factor
