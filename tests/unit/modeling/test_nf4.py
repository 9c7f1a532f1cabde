from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_common.specs import LoraSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.lora import init_lora, merge
from tunix_rt_modeling.nf4 import CODE_BOOK, dequantize, quantize, quantize_kernels
from tunix_rt_modeling.transformer import Params, init_params, logits

CONFIG = ModelConfig(
    vocab_size=32,
    hidden_size=96,
    intermediate_size=160,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=24,
    max_positions=32,
)


def size(params: Params) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("shape", [(8, 16), (5, 7), (3, 96, 48), (2, 1, 65)])
def test_each_weight_becomes_the_nearest_of_sixteen_shares_of_its_block(shape: tuple[int, ...]) -> None:
    kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kept = np.asarray(dequantize(quantize(jnp.asarray(kernel)), *shape[-2:]))
    for layer, found in zip(
        kernel.reshape(-1, shape[-2] * shape[-1]), kept.reshape(-1, shape[-2] * shape[-1]), strict=True
    ):
        for start in range(0, len(layer), 64):
            block = layer[start : start + 64]
            choices = CODE_BOOK * np.abs(block).max()
            nearest = choices[np.abs(block[:, None] - choices).argmin(axis=1)]
            np.testing.assert_allclose(found[start : start + 64], nearest, rtol=1e-6)


def test_kernel_of_zeros_stays_one() -> None:
    assert not np.asarray(dequantize(quantize(jnp.zeros((4, 32))), 4, 32)).any()


def test_kernels_take_four_and_a_half_bits_and_nothing_else_changes() -> None:
    params = init_params(CONFIG, jax.random.key(0))
    kept = quantize_kernels(params)
    kernels = sum(leaf.nbytes for path, leaf in jax.tree.leaves_with_path(params["layers"]) if path[-1].key == "kernel")
    assert size(params) - size(kept) == pytest.approx(kernels * (1 - 4.5 / 32), rel=1e-3)
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    jax.tree.map(np.testing.assert_array_equal, rest, {name: kept[name] for name in rest})


def test_model_in_four_bits_scores_as_its_kernels_written_out() -> None:
    kept = quantize_kernels(init_params(CONFIG, jax.random.key(0)))
    fresh = init_lora(CONFIG, LoraSpec(rank=2, base="nf4"), jax.random.key(1))
    token_ids = np.arange(12).reshape(2, 6)
    score = jax.jit(partial(logits, CONFIG))
    written_out = merge(CONFIG, kept, fresh, 1.0)
    np.testing.assert_allclose(score(kept, token_ids), score(written_out, token_ids), atol=1e-5)


def test_frozen_kernels_are_never_written_out_all_at_once() -> None:
    """The compiler's own count: the backward pass of many layers needs little more than that of a few."""

    def temporary_bytes(layers: int) -> int:
        config = CONFIG.model_copy(update={"num_layers": layers})
        params = jax.eval_shape(lambda: quantize_kernels(init_params(config, jax.random.key(0))))
        lora = jax.eval_shape(lambda: init_lora(config, LoraSpec(rank=2, targets=("q_proj",)), jax.random.key(1)))
        token_ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)

        def loss(lora: Params, params: Params, token_ids: jax.Array) -> jax.Array:
            return logits(config, params, token_ids, lora=lora, lora_scale=1.0).sum()

        memory = jax.jit(jax.grad(loss)).lower(lora, params, token_ids).compile().memory_analysis()
        return memory.temp_size_in_bytes

    kernels_of_a_layer = 4 * (2 * 96 * 96 + 2 * 96 * 48 + 3 * 96 * 160)
    assert temporary_bytes(24) - temporary_bytes(4) < 2 * kernels_of_a_layer
