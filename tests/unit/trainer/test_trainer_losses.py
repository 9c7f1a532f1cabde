import numpy as np
import pytest

from tunix_rt_modeling.config import PRESETS
from tunix_rt_trainer.engine.losses import LOSSES, next_token_loss


def loss_of(scores, token_ids, loss_mask):
    """The loss of a model whose embedding is the identity, so that hidden states are scores."""
    vocab = scores.shape[-1]
    config = PRESETS["tiny"].model_copy(update={"vocab_size": vocab, "hidden_size": vocab})
    params = {"embed_tokens": {"embedding": np.eye(vocab, dtype=np.float32)}}
    return next_token_loss(config, params, scores, token_ids, loss_mask)


def reference(logits, token_ids, loss_mask):
    total, count = 0.0, 0
    for row in range(len(token_ids)):
        for place in range(1, token_ids.shape[1]):
            if loss_mask[row, place]:
                scores = logits[row, place - 1].astype(np.float64)
                total += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[token_ids[row, place]]
                count += 1
    return total, count


def test_loss_equals_a_plain_numpy_reading_of_its_definition():
    random = np.random.default_rng(0)
    logits = (5 * random.normal(size=(3, 7, 11))).astype(np.float32)
    token_ids = random.integers(0, 11, size=(3, 7)).astype(np.int32)
    loss_mask = random.random((3, 7)) < 0.6
    loss_sum, count = loss_of(logits, token_ids, loss_mask)
    expected_sum, expected_count = reference(logits, token_ids, loss_mask)
    assert int(count) == expected_count
    assert float(loss_sum) == pytest.approx(expected_sum, rel=1e-6)


def test_first_token_of_a_row_is_never_counted():
    loss_mask = np.array([[True, False, False]])
    loss_sum, count = loss_of(np.ones((1, 3, 4), np.float32), np.zeros((1, 3), np.int32), loss_mask)
    assert (float(loss_sum), int(count)) == (0.0, 0)


def test_even_logits_cost_the_logarithm_of_the_vocabulary():
    loss_sum, count = loss_of(np.zeros((2, 5, 16), np.float32), np.zeros((2, 5), np.int32), np.ones((2, 5), bool))
    assert float(loss_sum) / int(count) == pytest.approx(np.log(16))


def test_supervised_fine_tuning_has_the_next_token_loss():
    assert LOSSES["sft"] is next_token_loss
