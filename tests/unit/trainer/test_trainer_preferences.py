"""Training on pairs of answers: what becomes of them on the way, and what the reference is."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from tunix_rt_common.errors import UnusableData
from tunix_rt_trainer.engine.batches import evaluation_batches, examples_of_step, training_batch
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.reference import with_reference
from tunix_rt_trainer.engine.step import batch_loss


def test_both_sides_of_a_pair_are_neighbours_in_one_micro_batch(small):
    spec = small.SPECS["dpo"]
    pairs = small.data_for(spec, 9)
    batch = training_batch(pairs, spec, 2)
    assert batch.token_ids.shape[:2] == (2, 4)
    for place, pair in enumerate(examples_of_step(spec.seed, 2, 4, 9)):
        part, first = divmod(2 * place, 4)
        for side in range(2):
            tokens = pairs.token_ids[2 * pair + side]
            assert batch.token_ids[part, first + side][: len(tokens)].tolist() == tokens.tolist()
            assert batch.reference[part, first + side] == pairs.reference[2 * pair + side]


def test_evaluation_counts_every_pair_once_although_its_batches_are_full(small):
    for kind in ("dpo", "orpo"):
        spec = small.SPECS[kind]
        batches = list(evaluation_batches(small.data_for(spec, 5), 2))
        assert [len(batch.token_ids) for batch in batches] == [4, 4, 4]
        totals = [batch_loss(small.CONFIG, spec, small.fresh_state(spec), batch) for batch in batches]
        assert sum(float(part.count) for part in totals) == 5
        assert np.isfinite([float(part.loss) for part in totals]).all()


@pytest.mark.parametrize("kind", ["dpo", "dpo-lora"])
def test_untrained_model_prefers_nothing_over_its_reference(small, kind):
    spec = small.SPECS[kind]
    [batch] = evaluation_batches(small.data_for(spec, 4), 4)
    totals = batch_loss(small.CONFIG, spec, small.fresh_state(spec), batch)
    assert float(totals.loss / totals.count) == pytest.approx(np.log(2), rel=1e-5)
    assert float(totals.measures["reward_margin"]) == pytest.approx(0, abs=1e-4)


def test_reference_is_the_same_whatever_rows_are_scored_together(small):
    spec = small.SPECS["dpo"]
    pairs, params = small.make_pairs(7), small.fresh_state(spec).params
    together = with_reference(small.CONFIG, spec, params, pairs).reference
    alone = with_reference(small.CONFIG, spec.model_copy(update={"batch_size": 1, "accumulation": 1}), params, pairs)
    np.testing.assert_allclose(together, alone.reference, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dpo", "dpo-lora", "orpo"])
def test_training_makes_the_chosen_answer_the_likelier_one(small, kind):
    spec = small.SPECS[kind]
    data = TrainingData(small.data_for(spec, 10), small.data_for(spec, 4, seed=20))
    infos, _ = small.finish(spec, small.fresh_state(spec), data)
    assert infos[-1].measures["reward_margin"] > infos[1].measures["reward_margin"]
    assert infos[-1].measures["preference_accuracy"] >= 0.75
    assert infos[-1].loss < infos[1].loss
    assert infos[-1].validation_loss < infos[0].validation_loss


def test_diverged_run_names_each_pair_once(small):
    spec = small.SPECS["orpo"]
    start = small.fresh_state(spec)
    broken = replace(start, params=jax.tree.map(lambda leaf: leaf * np.nan, start.params))
    with pytest.raises(UnusableData) as caught:
        small.finish(spec, broken, TrainingData(small.make_pairs(10)))
    for pair in examples_of_step(spec.seed, 0, 4, 10):
        assert str(caught.value).count(f"row-{pair}") == 1
