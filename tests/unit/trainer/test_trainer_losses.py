import numpy as np
import pytest

from tunix_rt_common.specs import METHODS, OrpoSpec, SftSpec
from tunix_rt_modeling.cross_entropy import Head
from tunix_rt_modeling.divergence import Scorer
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.losses import LOSSES, next_token_loss, odds_ratio_loss


def loss_of(scores, token_ids, weights, loss=next_token_loss, spec=None):
    """The loss of a model whose head is the identity, so that hidden states are scores."""
    vocab = scores.shape[-1]
    model = Scorer(scores.reshape(-1, vocab), Head(np.eye(vocab, dtype=np.float32), 0))
    batch = Batch(token_ids, weights.astype(np.float32), np.ones_like(token_ids))
    return loss(spec or SftSpec(), model, batch, None)


def test_first_token_of_a_row_is_never_counted():
    weights = np.array([[True, False, False]])
    totals = loss_of(np.ones((1, 3, 4), np.float32), np.zeros((1, 3), np.int32), weights)
    assert (float(totals.loss), float(totals.count)) == (0.0, 0.0)


def test_even_logits_cost_the_logarithm_of_the_vocabulary():
    totals = loss_of(np.zeros((2, 5, 16), np.float32), np.zeros((2, 5), np.int32), np.ones((2, 5), bool))
    assert float(totals.loss / totals.count) == pytest.approx(np.log(16))


def test_weights_change_what_counts_and_not_the_scale():
    random = np.random.default_rng(0)
    scores, token_ids = random.normal(size=(1, 6, 8)).astype(np.float32), np.arange(6, dtype=np.int32)[None]
    once, twice = (loss_of(scores, token_ids, np.full((1, 6), weight)) for weight in (1.0, 2.0))
    assert float(twice.loss / twice.count) == pytest.approx(float(once.loss / once.count))
    last = loss_of(scores, token_ids, np.array([[0, 0, 0, 0, 0, 0.25]]))
    alone = loss_of(scores, token_ids, np.array([[0, 0, 0, 0, 0, 1.0]]))
    assert float(last.loss / last.count) == pytest.approx(float(alone.loss / alone.count))


def test_answer_that_is_certain_has_finite_odds():
    token_ids = np.zeros((2, 3), np.int32)
    certain = np.full((2, 3, 4), -1e9, np.float32)
    certain[..., 0] = 0
    spec = OrpoSpec(method="orpo")
    totals = loss_of(certain, token_ids, np.ones((2, 3)), odds_ratio_loss, spec)
    assert float(totals.loss) == pytest.approx(0.1 * np.log(2), rel=1e-4)


def test_every_method_has_a_loss():
    assert set(LOSSES) == set(METHODS)
    assert LOSSES["sft"] is next_token_loss
