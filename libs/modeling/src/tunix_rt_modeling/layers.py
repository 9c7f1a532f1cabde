# mypy: disallow-subclassing-any=False, disallow-untyped-decorators=False, warn-return-any=False
# (flax.linen carries no types that mypy --strict accepts)
"""The Flax Linen modules of the decoder. `transformer` holds the functions to call.

Axis letters: B batch, T query tokens, S key slots, D hidden, H heads, N key/value heads, G heads per key/value head,
K head_dim, V vocabulary, L layers.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from tunix_rt_modeling.attention import attention
from tunix_rt_modeling.config import ModelConfig, Remat
from tunix_rt_modeling.nf4 import Nf4Kernel, dequantize
from tunix_rt_modeling.sharding import constrain

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"silu": nn.silu, "gelu_tanh": partial(nn.gelu, approximate=True)}


class View(NamedTuple):
    """What the layers of a kind, full or sliding, see: rotary angles, and who may look at whom."""

    cos: Float[Array, "batch tokens 1 head_dim"]
    sin: Float[Array, "batch tokens 1 head_dim"]
    mask: Bool[Array, "batch tokens slots"]


class Context(NamedTuple):
    """What the layers share: one view where they are all alike, otherwise those of full and of sliding layers."""

    views: tuple[View, ...]

    def view(self, slides: Bool[Array, ""]) -> View:
        """The view of a layer; which kind it is, is known when it runs and not when it is compiled."""
        if len(self.views) == 1:
            return self.views[0]
        full, sliding = self.views
        return jax.tree.map(partial(jnp.where, slides), sliding, full)


def _rotate(x: Float[Array, "B T heads K"], view: View) -> Float[Array, "B T heads K"]:
    first, second = jnp.split(x, 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * view.cos + turned * view.sin).astype(x.dtype)


class Linear(nn.Module):
    """x W + b, plus the low-rank x A B where the `lora` collection holds this layer."""

    features: int
    use_bias: bool
    dtype: str
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "B T inputs"]) -> Float[Array, "B T features"]:
        """Project the last axis."""
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        if self.has_variable("params", "nf4"):
            out = _project_frozen(x, self.get_variable("params", "nf4"), self.features)
        else:
            kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
            out = _project(x, kernel.astype(self.dtype))
        if self.use_bias:
            out += self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        if self.has_variable("lora", "a"):
            a, b = (self.get_variable("lora", name).astype(self.dtype) for name in ("a", "b"))
            out += _project(_project(x, a), b)
        return out


def _project(x: Float[Array, "B T inputs"], kernel: Float[Array, "inputs features"]) -> Float[Array, "B T features"]:
    """x W as one flat product: its gradient by W needs no transposed copy of x, which the batched product does."""
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


@partial(jax.checkpoint, static_argnums=2)
def _project_frozen(x: Float[Array, "B T inputs"], kernel: Nf4Kernel, features: int) -> Float[Array, "B T features"]:
    """x W with W in 4 bits, which is written out where it is used and never kept, for the backward pass neither."""
    return _project(x, dequantize(kernel, x.shape[-1], features, x.dtype))


class RMSNorm(nn.Module):
    """x / rms(x) * scale, in float32 (Zhang & Sennrich 2019, arXiv:1910.07467); `offset` is added to the scale."""

    epsilon: float
    offset: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Normalise the last axis."""
        init = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", init, (x.shape[-1],), jnp.float32) + self.offset
        wide = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        return (scale * wide * jax.lax.rsqrt(variance + self.epsilon)).astype(x.dtype)


def norm(config: ModelConfig, name: str) -> RMSNorm:
    """One of the model's norms."""
    return RMSNorm(config.rms_norm_eps, float(config.offset_norms), name=name)


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    config: ModelConfig

    @nn.compact
    def __call__(self, normed: Float[Array, "B T D"], view: View) -> Float[Array, "B T D"]:
        """Return what the heads add to the residual stream."""
        config, batch_shape = self.config, normed.shape[:2]

        def project(name: str, heads: int) -> Float[Array, "B T heads K"]:
            linear = Linear(heads * config.head_dim, config.qkv_bias, config.compute_dtype, name=name)
            return linear(normed).reshape(*batch_shape, heads, config.head_dim)

        def positioned(name: str, heads: Float[Array, "B T heads K"]) -> Float[Array, "B T heads K"]:
            return _rotate(norm(config, name)(heads) if config.normed_queries else heads, view)

        query = positioned("q_norm", project("q_proj", config.num_heads))
        key = positioned("k_norm", project("k_proj", config.num_kv_heads)).swapaxes(1, 2)
        value = project("v_proj", config.num_kv_heads).swapaxes(1, 2)
        scale = config.query_scale or config.head_dim**-0.5
        heads = attention(query, key, value, view.mask, scale=scale, softcap=config.attention_softcap)
        project_out = Linear(
            config.hidden_size, config.output_bias, config.compute_dtype, 0.5 / config.num_layers, name="o_proj"
        )
        return project_out(heads.reshape(*batch_shape, -1))


class MLP(nn.Module):
    """down(activation(gate(x)) * up(x)) (Shazeer 2020, arXiv:2002.05202)."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Return what the layer adds to the residual stream."""
        config = self.config
        bias, dtype = config.mlp_bias, config.compute_dtype
        gate = Linear(config.intermediate_size, bias, dtype, name="gate_proj")(x)
        up = Linear(config.intermediate_size, bias, dtype, name="up_proj")(x)
        gated = ACTIVATIONS[config.activation](gate) * up
        return Linear(config.hidden_size, bias, dtype, 0.5 / config.num_layers, name="down_proj")(gated)


class Layer(nn.Module):
    """Attention and MLP, each behind a norm and added to the residual stream, with another norm in some families."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "B T D"], slides: Bool[Array, ""], context: Context
    ) -> tuple[Float[Array, "B T D"], None]:
        """Run one layer of the scan."""
        config = self.config
        residual = constrain(hidden, "batch", None, None)
        normed = norm(config, "input_layernorm")(residual)
        attended = Attention(config, name="self_attn")(normed, context.view(slides))
        if config.normed_branches:
            attended = norm(config, "post_attention_layernorm")(attended)
        hidden = residual + attended
        before = "pre_feedforward_layernorm" if config.normed_branches else "post_attention_layernorm"
        added = MLP(config, name="mlp")(norm(config, before)(hidden))
        if config.normed_branches:
            added = norm(config, "post_feedforward_layernorm")(added)
        return hidden + added, None


def _layer(remat: Remat) -> type[nn.Module]:
    """The layer as the backward pass sees it."""
    if remat == "none":
        return Layer
    keep_products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return nn.remat(Layer, prevent_cse=False, policy=keep_products if remat == "dots" else None)


class Decoder(nn.Module):
    """Embedding, the scanned layers, the last norm; the output head is `transformer.output_head`."""

    config: ModelConfig

    @nn.compact
    def __call__(self, token_ids: Int[Array, "B T"], context: Context) -> Float[Array, "B T D"]:
        """Return hidden states after the last norm."""
        config = self.config
        embed = nn.Embed(
            config.vocab_size,
            config.hidden_size,
            embedding_init=nn.initializers.normal(0.02),
            name="embed_tokens",
        )
        layers = nn.scan(
            _layer(config.remat),
            variable_axes={"params": 0, "lora": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=config.num_layers,
        )(config, name="layers")
        table = constrain(embed.embedding, "vocab", None)
        hidden = constrain(jnp.take(table, token_ids, axis=0).astype(config.compute_dtype), "batch", None, None)
        if config.scaled_embeddings:
            hidden *= jnp.sqrt(config.hidden_size).astype(hidden.dtype)
        slides = jnp.array(config.sliding_layers or [False] * config.num_layers)
        hidden, _ = layers(hidden, slides, context)
        return norm(config, "norm")(hidden)
