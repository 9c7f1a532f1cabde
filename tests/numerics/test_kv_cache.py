from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.transformer import extend, init_cache, init_params, logits, output_head

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    max_positions=64,
)


def test_tokens_through_the_cache_score_as_without_it() -> None:
    params = init_params(CONFIG, jax.random.key(0))
    token_ids = jax.random.randint(jax.random.key(1), (3, 12), 0, CONFIG.vocab_size)
    mask = np.ones((3, 12), bool)
    mask[1, :4] = mask[2, :7] = False
    expected = jax.jit(partial(logits, CONFIG))(params, token_ids, attention_mask=mask)

    step = jax.jit(partial(extend, CONFIG))
    hidden, cache = step(params, init_cache(CONFIG, 3, 16), token_ids[:, :8], mask[:, :8])
    pieces = [hidden]
    for column in range(8, 12):
        hidden, cache = step(params, cache, token_ids[:, column : column + 1])
        pieces.append(hidden)
    cached = output_head(CONFIG, params, jnp.concatenate(pieces, axis=1))
    np.testing.assert_allclose(cached[mask], expected[mask], atol=1e-5)
    assert int(cache.length) == 12


def test_later_tokens_do_not_change_earlier_scores() -> None:
    params = init_params(CONFIG, jax.random.key(0))
    token_ids = jax.random.randint(jax.random.key(1), (1, 12), 0, CONFIG.vocab_size)
    changed = token_ids.at[0, 8].add(1) % CONFIG.vocab_size
    score = jax.jit(partial(logits, CONFIG))
    before, after = (np.asarray(score(params, ids)) for ids in (token_ids, changed))
    np.testing.assert_array_equal(before[0, :8], after[0, :8])
    assert np.abs(before[0, 8:] - after[0, 8:]).max() > 1e-3
