"""Scaled dot-product attention with shared key/value heads, by the kernel that suits the device.

Axis letters: B batch, T query tokens, S key slots, H heads, N key/value heads, G heads per key/value head, K head_dim.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tunix_rt_modeling.sharding import divides, per_device

_SCORES_AT_ONCE = 2**21
_MASKED = -1e30
_WIDEST_FUSED_HEAD = 128


def attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B N S K"],
    value: Float[Array, "B N S K"],
    mask: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "B T H K"]:
    """softmax(scale Q K^T) V for each query over the slots that `mask` lets it see; softmax in float32.

    With a soft cap c, scores s become c tanh(s / c) (Gemma 2, arXiv:2408.00118). Under a mesh each device has its own
    rows, and its own heads where the mesh divides them.
    """
    heads = "kv_heads" if divides("kv_heads", key.shape[1]) else None
    queries, slots = ("batch", None, heads, None), ("batch", heads, None, None)
    attend = partial(_attend_on_device, scale=scale, softcap=softcap)
    return per_device(attend, [(query, queries), (key, slots), (value, slots), (mask, ("batch", None, None))], queries)


def soft_capped(scores: Float[Array, "..."], cap: float | None) -> Float[Array, "..."]:
    """Scores kept within ±cap, smoothly; as they are without one."""
    return scores if cap is None else cap * jnp.tanh(scores / cap)


def _attend_on_device(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B N S K"],
    value: Float[Array, "B N S K"],
    mask: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "B T H K"]:
    if softcap is None and _has_fused_kernel(query):
        return jax.nn.dot_product_attention(
            query,
            key.swapaxes(1, 2),
            value.swapaxes(1, 2),
            mask=mask[:, None],
            scale=scale,
            implementation="cudnn",
        )
    return _attend_in_slices(query, key, value, mask, scale=scale, softcap=softcap)


def _has_fused_kernel(query: Float[Array, "B T H K"]) -> bool:
    """Whether cuDNN's flash attention takes it: half precision, many queries, heads that are not too wide."""
    tokens, head_dim = query.shape[1], query.shape[3]
    fits = tokens > 1 and head_dim % 8 == 0 and head_dim <= _WIDEST_FUSED_HEAD
    return fits and query.dtype == jnp.bfloat16 and jax.default_backend() == "gpu"


def _attend_in_slices(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B N S K"],
    value: Float[Array, "B N S K"],
    mask: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "B T H K"]:
    """`_attend`, a few rows at a time where the scores of all rows would not stay in a CPU's caches."""
    attend = partial(_attend, scale=scale, softcap=softcap)
    batch, tokens, heads, _ = query.shape
    rows = max(1, _SCORES_AT_ONCE // (tokens * heads * key.shape[2]))
    if rows >= batch:
        return attend(query, key, value, mask)

    def attend_row(row: tuple[Array, Array, Array, Array]) -> Array:
        return attend(*(part[None] for part in row))[0]

    attended: Array = jax.lax.map(jax.checkpoint(attend_row), (query, key, value, mask), batch_size=rows)
    return attended


def _attend(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B N S K"],
    value: Float[Array, "B N S K"],
    mask: Bool[Array, "B T S"],
    *,
    scale: float,
    softcap: float | None,
) -> Float[Array, "B T H K"]:
    """The queries that share a key head become rows of one matrix, which spares XLA on CPU half of decoding's time."""
    batch, tokens, heads, head_dim = query.shape
    kv_heads, slots = key.shape[1:3]
    query = query.reshape(batch, tokens, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    query = query.reshape(batch, kv_heads, -1, head_dim) * scale
    scores = (query @ key.swapaxes(2, 3)).astype(jnp.float32).reshape(batch, kv_heads, -1, tokens, slots)
    scores = soft_capped(scores, softcap)
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, _MASKED), axis=-1).astype(value.dtype)
    mixed = weights.reshape(batch, kv_heads, -1, slots) @ value
    mixed = mixed.reshape(batch, kv_heads, -1, tokens, head_dim).transpose(0, 3, 1, 2, 4)
    return mixed.reshape(batch, tokens, heads, head_dim)
