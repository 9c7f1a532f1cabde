from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from tunix_rt_modeling import huggingface
from tunix_rt_modeling.transformer import logits


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_texts_in_one_row_score_as_in_rows_of_their_own(parity_data: Path, family: str) -> None:
    config = huggingface.read_config(parity_data / family)
    params = huggingface.load_params(parity_data / family, config)
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, config.vocab_size, length) for length in (7, 30, 1, 22)]
    packed = np.concatenate([*texts, np.zeros(4, int)])[None]
    segments = np.repeat(np.arange(5), [len(text) for text in texts] + [4])[None]
    mask = segments < 4
    with jax.default_matmul_precision("highest"):
        score = jax.jit(partial(logits, config))
        together = np.asarray(score(params, packed, attention_mask=mask, segments=segments))[0]
        for number, text in enumerate(texts):
            alone = score(params, text[None])[0]
            np.testing.assert_allclose(together[segments[0] == number], alone, atol=1e-5)
