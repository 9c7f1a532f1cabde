"""Each method's loss against a plain NumPy reading of its formula, in float64; slopes against central differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_common.specs import DistillSpec, DpoSpec, OrpoSpec, SftSpec, TrainSpec
from tunix_rt_modeling.cross_entropy import Head
from tunix_rt_modeling.divergence import Scorer
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.losses import LOSSES

RANDOM = np.random.default_rng(0)
SHAPE, VOCAB = (6, 9), 11
SCORES, TEACHER = (2 * RANDOM.normal(size=(*SHAPE, VOCAB)) for _ in range(2))
TOKEN_IDS = RANDOM.integers(0, VOCAB, size=SHAPE)
WEIGHTS = (RANDOM.random(SHAPE) < 0.6).astype(float)
STEP_WEIGHTS = WEIGHTS * RANDOM.uniform(0.5, 3, size=SHAPE)
REFERENCE = -RANDOM.uniform(5, 15, size=SHAPE[0])


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def log_sigmoid(value: float) -> float:
    return -np.log1p(np.exp(-value))


def each_token(scores: np.ndarray) -> np.ndarray:
    """-log p of each token but the first of its row."""
    rows, places = np.indices((SHAPE[0], SHAPE[1] - 1))
    return -log_softmax(scores[:, :-1])[rows, places, TOKEN_IDS[:, 1:]]


def sft(scores: np.ndarray) -> float:
    weights = STEP_WEIGHTS[:, 1:]
    return (each_token(scores) * weights).sum() / weights.sum()


def distill(scores: np.ndarray, temperature: float = 2.5, alpha: float = 0.7) -> float:
    theirs, ours = (log_softmax(each[:, :-1] / temperature) for each in (TEACHER, scores))
    divergence = (np.exp(theirs) * (theirs - ours)).sum(axis=-1)
    mixed = alpha * temperature**2 * divergence + (1 - alpha) * each_token(scores)
    return (mixed * WEIGHTS[:, 1:]).sum() / WEIGHTS[:, 1:].sum()


def dpo(scores: np.ndarray, beta: float = 0.3, smoothing: float = 0.1) -> float:
    answers = -(each_token(scores) * WEIGHTS[:, 1:]).sum(axis=1)
    losses = []
    for chosen, rejected in ((0, 1), (2, 3), (4, 5)):
        margin = beta * ((answers[chosen] - REFERENCE[chosen]) - (answers[rejected] - REFERENCE[rejected]))
        losses.append(-(1 - smoothing) * log_sigmoid(margin) - smoothing * log_sigmoid(-margin))
    return float(np.mean(losses))


def orpo(scores: np.ndarray, ratio_weight: float = 0.4) -> float:
    tokens = each_token(scores)
    losses = []
    for chosen, rejected in ((0, 1), (2, 3), (4, 5)):
        means = [np.average(-tokens[side], weights=WEIGHTS[side, 1:]) for side in (chosen, rejected)]
        log_odds = [mean - np.log(1 - np.exp(mean)) for mean in means]
        losses.append(-means[0] - ratio_weight * log_sigmoid(log_odds[0] - log_odds[1]))
    return float(np.mean(losses))


METHODS: dict[str, tuple[Callable[[np.ndarray], float], TrainSpec, np.ndarray]] = {
    "sft": (sft, SftSpec(), STEP_WEIGHTS),
    "distill": (distill, DistillSpec(method="distill", teacher="t@1", temperature=2.5, alpha=0.7), WEIGHTS),
    "dpo": (dpo, DpoSpec(method="dpo", beta=0.3, label_smoothing=0.1), WEIGHTS),
    "orpo": (orpo, OrpoSpec(method="orpo", ratio_weight=0.4), WEIGHTS),
}


def ours(method: str) -> Callable[[Any], Any]:
    """The mean loss as a function of the scores: with the identity as head, hidden states are scores."""
    _, spec, weights = METHODS[method]
    head = Head(jnp.eye(VOCAB), 0)
    arrays = TOKEN_IDS.astype(np.int32), weights.astype(np.float32), np.ones(SHAPE, np.int32)
    batch = Batch(*arrays, reference=REFERENCE.astype(np.float32))
    teacher = Scorer(jnp.asarray(TEACHER.reshape(-1, VOCAB), jnp.float32), head)

    def mean(scores: jax.Array) -> jax.Array:
        totals = LOSSES[method](spec, Scorer(scores.reshape(-1, VOCAB), head), batch, teacher)
        return totals.loss / totals.count

    return mean


@pytest.mark.parametrize("method", METHODS)
def test_loss_and_slope_are_those_of_the_formula(method: str) -> None:
    plain = METHODS[method][0]
    value, slope = jax.value_and_grad(ours(method))(jnp.asarray(SCORES, jnp.float32))
    assert float(value) == pytest.approx(plain(SCORES), rel=1e-5)
    for direction in np.random.default_rng(1).normal(size=(4, *SCORES.shape)):
        rise = (plain(SCORES + 1e-5 * direction) - plain(SCORES - 1e-5 * direction)) / 2e-5
        assert float((np.asarray(slope, np.float64) * direction).sum()) == pytest.approx(rise, rel=1e-4, abs=1e-6)


def test_preference_measures_are_means_over_pairs() -> None:
    _, spec, _ = METHODS["dpo"]
    answers = -(each_token(SCORES) * WEIGHTS[:, 1:]).sum(axis=1) - REFERENCE
    margins = 0.3 * (answers[::2] - answers[1::2])
    arrays = TOKEN_IDS.astype(np.int32), WEIGHTS.astype(np.float32), np.ones(SHAPE, np.int32)
    model = Scorer(jnp.asarray(SCORES.reshape(-1, VOCAB), jnp.float32), Head(jnp.eye(VOCAB), 0))
    totals = LOSSES["dpo"](spec, model, Batch(*arrays, reference=REFERENCE.astype(np.float32)), None)
    assert float(totals.measures["reward_margin"]) == pytest.approx(margins.sum(), rel=1e-5)
    assert float(totals.measures["preference_accuracy"]) == (margins > 0).sum()
