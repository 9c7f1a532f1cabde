"""The decoder as generation runs it: the arithmetic of `layers`, from weights in the form that XLA reads fastest.

Every product has a matrix of its own for each layer (`fuse`), so that nothing is sliced out of stacked weights in every
step. Depth adds to compile time instead.
Axis letters are those of `layers`; X counts tokens of any origin: of one row of prompts, or one of each running row.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tunix_rt_modeling.attention import attention, soft_capped
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.layers import ACTIVATIONS, RMSNorm
from tunix_rt_modeling.transformer import Params, head_of, segmented


class Projection(NamedTuple):
    """x W + b in the compute dtype."""

    kernel: Float[Array, "inputs features"]
    bias: Float[Array, " features"] | None

    def __call__(self, x: Float[Array, "X inputs"]) -> Float[Array, "X features"]:
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
    """A model's weights, copied into the compute dtype but for the embedding."""

    embedding: Float[Array, "vocab hidden"]
    layers: tuple[LayerWeights, ...]
    norm: Float[Array, " hidden"]
    head: Float[Array, "hidden vocab"]


Turn = tuple[Float[Array, "X 1 K"], Float[Array, "X 1 K"]]
"""Cosine and sine of each token's rotary angles."""


class Heads(NamedTuple):
    """What attention works on, at its positions."""

    query: Float[Array, "X H K"]
    key: Float[Array, "X N K"]
    value: Float[Array, "X N K"]


def fuse(config: ModelConfig, params: Params) -> Weights:
    """Return the weights in the form that this module reads."""
    layers, head = _fuse(config, params)
    return Weights(params["embed_tokens"]["embedding"], layers, params["norm"]["scale"], head)


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


def slides(config: ModelConfig) -> tuple[bool, ...]:
    """Say of each layer whether it sees a sliding window alone."""
    return config.sliding_layers or (False,) * config.num_layers


def read(
    config: ModelConfig,
    weights: Weights,
    token_ids: Int[Array, " X"],
    segments: Int[Array, " X"],
    last: Int[Array, " P"],
) -> tuple[Float[Array, "P V"], Float[Array, "L N X K"], Float[Array, "L N X K"]]:
    """Score what follows the tokens at `last`, and return every layer's keys and values; each sees its segment alone.

    The last layer's keys and values come from all tokens, the rest of it is computed for those at `last`.
    """
    attend = partial(attention, scale=query_scale(config), softcap=config.attention_softcap)
    views = segmented(config, segments[None]).views
    hidden, keys, values = embed(config, weights, token_ids), [], []
    for layer, slide in zip(weights.layers, slides(config), strict=True):
        view = views[slide % len(views)]
        query, key, value = heads_of(config, layer, hidden, (view.cos[0], view.sin[0]))
        keys.append(key.swapaxes(0, 1))
        values.append(value.swapaxes(0, 1))
        mask = view.mask
        if layer is weights.layers[-1]:
            query, hidden, mask = query[last], hidden[last], mask[:, last]
        attended = attend(query[None], keys[-1][None], values[-1][None], mask)
        hidden = add_branches(config, layer, hidden, attended.reshape(len(hidden), -1))
    return score(config, weights, hidden), jnp.stack(keys), jnp.stack(values)


def embed(config: ModelConfig, weights: Weights, token_ids: Int[Array, " X"]) -> Float[Array, "X D"]:
    """Look tokens up."""
    hidden = weights.embedding[token_ids].astype(config.compute_dtype)
    return hidden * jnp.sqrt(config.hidden_size).astype(hidden.dtype) if config.scaled_embeddings else hidden


def heads_of(config: ModelConfig, layer: LayerWeights, hidden: Float[Array, "X D"], turn: Turn) -> Heads:
    """What a layer's attention works on."""
    normed = _norm(config, layer.norms["input_layernorm"], hidden)
    heads = layer.query_key_value(normed).reshape(len(normed), -1, config.head_dim)
    query, key, value = jnp.split(heads, (config.num_heads, config.num_heads + config.num_kv_heads), axis=1)
    if config.normed_queries:
        query, key = (_norm(config, layer.norms[name], x) for name, x in (("q_norm", query), ("k_norm", key)))
    return Heads(_rotate(query, turn), _rotate(key, turn), value)


def query_scale(config: ModelConfig) -> float:
    """What a query's products with keys are multiplied by."""
    return config.query_scale or config.head_dim**-0.5


def add_branches(
    config: ModelConfig, layer: LayerWeights, hidden: Float[Array, "X D"], attended: Float[Array, "X HK"]
) -> Float[Array, "X D"]:
    """Add to the residual stream what a layer's heads found, then what its MLP makes of the sum."""

    def normed(name: str, x: Float[Array, "X D"]) -> Float[Array, "X D"]:
        return _norm(config, layer.norms[name], x)

    added = layer.out(attended)
    hidden += normed("post_attention_layernorm", added) if config.normed_branches else added
    before = "pre_feedforward_layernorm" if config.normed_branches else "post_attention_layernorm"
    gate, up = jnp.split(layer.gate_up(normed(before, hidden)), 2, axis=-1)
    added = layer.down(ACTIVATIONS[config.activation](gate) * up)
    return hidden + (normed("post_feedforward_layernorm", added) if config.normed_branches else added)


def score(config: ModelConfig, weights: Weights, hidden: Float[Array, "X D"]) -> Float[Array, "X V"]:
    """Score every next token, in float32."""
    scores = (_norm(config, weights.norm, hidden) @ weights.head).astype(jnp.float32)
    return soft_capped(scores, config.logit_softcap)


def _rotate(x: Float[Array, "X heads K"], turn: Turn) -> Float[Array, "X heads K"]:
    """Turn by the position's angle. The halves change places in a product: exact, and XLA on CPU moves them slowly."""
    half = jnp.eye(x.shape[-1] // 2, dtype=x.dtype)
    turned = x @ jnp.block([[jnp.zeros_like(half), half], [-half, jnp.zeros_like(half)]])
    cos, sin = turn
    return (x * cos + turned * sin).astype(x.dtype)


def _norm(config: ModelConfig, scale: Float[Array, " size"], x: Float[Array, "... size"]) -> Float[Array, "... size"]:
    norm = RMSNorm(config.rms_norm_eps, float(config.offset_norms))
    normed: Float[Array, "... size"] = norm.apply({"params": {"scale": scale}}, x)
    return normed
