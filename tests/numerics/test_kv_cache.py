from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_modeling import decoding, inference
from tunix_rt_modeling.batching import Continuation
from tunix_rt_modeling.batchplan import Request
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.decoding import Drawing
from tunix_rt_modeling.drawing import GREEDY
from tunix_rt_modeling.kvcache import empty_ring
from tunix_rt_modeling.lanes import Lanes
from tunix_rt_modeling.transformer import Params, init_params, logits

PLAIN = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=512,
)
CONFIGS = {
    "plain": PLAIN,
    "one key head": PLAIN.model_copy(update={"num_kv_heads": 1}),
    "biased": PLAIN.model_copy(update={"qkv_bias": True, "output_bias": True, "mlp_bias": True}),
    "sliding": PLAIN.model_copy(update={"sliding_window": 7, "sliding_layers": (True, False, True, True)}),
    "capped": PLAIN.model_copy(
        update={
            "attention_softcap": 0.5,
            "logit_softcap": 2.0,
            "query_scale": 0.3,
            "normed_branches": True,
            "offset_norms": True,
            "scaled_embeddings": True,
            "activation": "gelu_tanh",
            "tie_embeddings": True,
            "sliding_window": 70,
            "sliding_layers": (True, False, True, False),
        }
    ),
    "normed queries": PLAIN.model_copy(update={"normed_queries": True, "head_dim": 16}),
}


def drawn(config: ModelConfig, params: Params, requests: list[Request], rows: int) -> list[Continuation]:
    lanes = Lanes(config, params, requests, rows=rows, how=Drawing(GREEDY, ()), seed=0)
    ended = [continuation for finished in lanes.run(None) for continuation in finished]
    return sorted(ended, key=lambda continuation: continuation.request)


def shaken(params: Params) -> Params:
    """Biases and norms away from the zeros and ones that they begin with."""
    random = np.random.default_rng(7)
    return jax.tree.map(lambda x: jnp.asarray(x + 0.1 * random.standard_normal(x.shape, np.float32)), params)


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_that_come_and_go_draw_as_without_a_cache(name: str) -> None:
    """Lengths differ, so rings grow, wrap, are refilled, and shrink with the batch at the end."""
    config = CONFIGS[name]
    params = shaken(init_params(config, jax.random.key(0)))
    random = np.random.default_rng(0)
    sizes = [(3, 80), (40, 5), (70, 20), (1, 1), (9, 40)]
    requests = [Request(tuple(random.integers(0, 64, prompt).tolist()), 0, new) for prompt, new in sizes]

    score = jax.jit(partial(logits, config))
    for request, continuation in zip(requests, drawn(config, params, requests, rows=2), strict=True):
        ids = [*request.prompt, *continuation.token_ids]
        assert len(continuation.token_ids) == request.max_new_tokens
        padded = np.zeros((1, 96), np.int32)
        padded[0, : len(ids)] = ids
        scores = np.asarray(score(params, padded))[0, len(request.prompt) - 1 : len(ids) - 1]
        scores = scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)
        assert scores.argmax(-1).tolist() == continuation.token_ids
        np.testing.assert_allclose(continuation.logprobs, scores.max(-1), atol=1e-4)


@pytest.mark.parametrize(("rows", "heads"), [(2, 1), (1, 2), (8, 2)])
def test_a_segment_writes_the_cache_in_place(rows: int, heads: int) -> None:
    config = PLAIN.model_copy(update={"num_heads": heads, "num_kv_heads": heads, "head_dim": 64, "num_layers": 2})
    weights = inference.fuse(config, init_params(config, jax.random.key(0)))
    batch = decoding.empty_batch(config, rows, 4096)
    compiled = decoding.WHOLE_DEVICE.decode.lower(
        config, weights, batch, np.ones(rows, bool), rows, jax.random.key(0), how=Drawing(GREEDY, ()), steps=4
    ).compile()
    layer = empty_ring(config, rows, 4096)[0].keys.nbytes
    assert compiled.memory_analysis().temp_size_in_bytes < layer


def test_later_tokens_do_not_change_earlier_scores() -> None:
    params = init_params(PLAIN, jax.random.key(0))
    token_ids = jax.random.randint(jax.random.key(1), (1, 12), 0, PLAIN.vocab_size)
    changed = token_ids.at[0, 8].add(1) % PLAIN.vocab_size
    score = jax.jit(partial(logits, PLAIN))
    before, after = (np.asarray(score(params, ids)) for ids in (token_ids, changed))
    np.testing.assert_array_equal(before[0, :8], after[0, :8])
    assert np.abs(before[0, 8:] - after[0, 8:]).max() > 1e-3


def test_resized_rings_hold_the_same_tokens() -> None:
    config = PLAIN.model_copy(update={"num_layers": 2, "sliding_window": 5, "sliding_layers": (True, False)})
    head = jnp.array(21)
    filled = jax.tree.map(lambda x: jax.random.normal(jax.random.key(0), x.shape), empty_ring(config, 3, 16))
    batch = decoding.empty_batch(config, 3, 16)._replace(ring=filled, head=head)
    kept = {layer: youngest(config, filled[layer], 3, head, 5) for layer in (0, 1)}

    larger = decoding.resize(config, batch, None, 24)
    assert [layer.slots for layer in larger.ring] == [5, 24]
    smaller = decoding.resize(config, larger, np.array([2, 0]), 8)
    assert [layer.slots for layer in smaller.ring] == [5, 8]
    for number, layer in enumerate(smaller.ring):
        for before, after in zip(kept[number], youngest(config, layer, 2, head, 5), strict=True):
            np.testing.assert_array_equal(before[[2, 0]], after)


def youngest(config: ModelConfig, ring, rows: int, head: jax.Array, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values of the last tokens of each row, oldest first."""
    slots = (int(head) - np.arange(tokens, 0, -1)) % ring.slots
    keys, values = (np.asarray(part).reshape(rows, config.num_kv_heads, *part.shape[1:]) for part in ring)
    return keys[..., slots], values[..., slots, :]
