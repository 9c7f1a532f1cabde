"""Keys and values of a running batch: for each layer a ring of slots that all rows write in step.

Step number t writes slot t modulo the ring's size, the same slot in every row. A row's text thus ends at the slot that
was written last, whenever it joined, and a row of n tokens sees the n youngest slots: nothing is padded, no row has a
write position of its own, and none moves when another leaves. A sliding layer's ring is no larger than its window.
Axis letters are those of `layers`; slots are the last axis of the keys and the last but one of the values, as the two
products of a single query read them in order.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tunix_rt_modeling.config import ModelConfig


class LayerRing(NamedTuple):
    """What one layer remembers of every row. Rows and key heads are one axis: XLA copies a ring with an axis of one."""

    keys: Float[Array, "BN K S"]
    values: Float[Array, "BN S K"]

    @property
    def slots(self) -> int:
        """The ring's size."""
        return self.keys.shape[-1]


Ring = tuple[LayerRing, ...]


def ring_slots(config: ModelConfig, slots: int) -> tuple[int, ...]:
    """Return each layer's slots for rows of up to `slots` tokens."""
    slides = config.sliding_layers or (False,) * config.num_layers
    return tuple(min(slots, config.sliding_window or slots) if sliding else slots for sliding in slides)


def token_bytes(config: ModelConfig) -> int:
    """Return the size of one token's keys and values in one layer."""
    return 2 * config.num_kv_heads * config.head_dim * jnp.dtype(config.compute_dtype).itemsize


def empty_ring(config: ModelConfig, rows: int, slots: int) -> Ring:
    """Allocate the rings of `rows` rows of up to `slots` tokens, in the compute dtype."""
    heads, size = rows * config.num_kv_heads, config.head_dim

    def layer(slots: int) -> LayerRing:
        keys, values = (heads, size, slots), (heads, slots, size)
        return LayerRing(jnp.zeros(keys, config.compute_dtype), jnp.zeros(values, config.compute_dtype))

    return tuple(map(layer, ring_slots(config, slots)))


def ages(head: Int[Array, ""], slots: int) -> Int[Array, " slots"]:
    """Return how many steps before the last one each slot was written, where step `head` is to come."""
    return (head - 1 - jnp.arange(slots)) % slots


def visible(head: Int[Array, ""], slots: int, lengths: Int[Array, " B"]) -> Bool[Array, "B S"]:
    """Say which slots hold a row's own tokens, `lengths` of which were written before step `head`."""
    return ages(head, slots)[None, :] < lengths[:, None]


def write(ring: LayerRing, head: Int[Array, ""], key: Float[Array, "B N K"], value: Float[Array, "B N K"]) -> LayerRing:
    """Write one token of every row."""
    slot, size = head % ring.slots, key.shape[-1]
    return LayerRing(
        jax.lax.dynamic_update_slice(ring.keys, key.reshape(-1, size, 1), (0, 0, slot)),
        jax.lax.dynamic_update_slice(ring.values, value.reshape(-1, 1, size), (0, slot, 0)),
    )


class Spans(NamedTuple):
    """Where prompts lie in the row that they were read in together."""

    starts: Int[Array, " prompts"]
    lengths: Int[Array, " prompts"]


def insert(
    ring: LayerRing,
    head: Int[Array, ""],
    keys: Float[Array, "N T K"],
    values: Float[Array, "N T K"],
    spans: Spans,
    sources: Int[Array, " B"],
) -> LayerRing:
    """Put prompts into rows: `sources` holds each row's prompt, or -1 to leave it alone."""
    back = ages(head, ring.slots)
    rows = jnp.flatnonzero(sources >= 0, size=len(sources))

    def put(position: Int[Array, ""], ring: LayerRing) -> LayerRing:
        row = rows[position]
        prompt = sources[row]
        columns = jnp.clip(spans.starts[prompt] + spans.lengths[prompt] - 1 - back, 0, keys.shape[1] - 1)
        start = (row * len(keys), 0, 0)
        return LayerRing(
            jax.lax.dynamic_update_slice(ring.keys, keys[:, columns].swapaxes(1, 2), start),
            jax.lax.dynamic_update_slice(ring.values, values[:, columns], start),
        )

    filled: LayerRing = jax.lax.fori_loop(0, (sources >= 0).sum(), put, ring)
    return filled


def resize(config: ModelConfig, ring: Ring, head: Int[Array, ""], rows: Int[Array, " kept"] | None, slots: int) -> Ring:
    """Move the given rows, or all, to rings for up to `slots` tokens; each layer's old ring is freed once copied."""

    def move(layer: LayerRing, slots: int) -> LayerRing:
        moved: LayerRing = _resize_layer(layer, head, rows, slots, config.num_kv_heads)
        layer.keys.delete()
        layer.values.delete()
        return moved

    return tuple(map(move, ring, ring_slots(config, slots)))


@partial(jax.jit, static_argnames=("slots", "heads"))
def _resize_layer(
    ring: LayerRing, head: Int[Array, ""], rows: Int[Array, " kept"] | None, slots: int, heads: int
) -> LayerRing:
    def copy(stored: Float[Array, "BN ..."], axis: int) -> Float[Array, "keptN ..."]:
        """Turn the youngest slot to the end, cut or pad the beginning, turn it to its place."""
        if rows is not None:
            stored = stored.reshape(-1, heads, *stored.shape[1:])[rows].reshape(-1, *stored.shape[1:])
        ordered = jnp.roll(stored, -head, axis)
        if slots > ring.slots:
            ordered = jnp.pad(ordered, [(slots - ring.slots, 0) if n == axis else (0, 0) for n in range(3)])
        return jnp.roll(jax.lax.slice_in_dim(ordered, ordered.shape[axis] - slots, None, axis=axis), head, axis)

    return LayerRing(copy(ring.keys, 2), copy(ring.values, 1))
