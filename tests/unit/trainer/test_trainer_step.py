import jax
import numpy as np
import pytest

from tunix_rt_trainer.engine.batches import Batch, training_batch
from tunix_rt_trainer.engine.state import trainable
from tunix_rt_trainer.engine.step import batch_loss, train_step


def step_with(small, spec, rows):
    state, metrics = train_step(small.CONFIG, spec, small.STEPS, small.fresh_state(spec), training_batch(rows, spec, 0))
    return small.as_arrays(state), metrics


def test_accumulated_micro_batches_equal_one_batch(small):
    rows, spec = small.make_rows(12), small.SPEC
    accumulated = step_with(small, spec, rows)
    whole = step_with(small, spec.model_copy(update={"accumulation": 1}), rows)
    assert float(accumulated[1].loss) == pytest.approx(float(whole[1].loss), rel=1e-5)
    assert float(accumulated[1].gradient_norm) == pytest.approx(float(whole[1].gradient_norm), rel=1e-5)
    first_moments = [name for name in whole[0] if ".mu" in name]
    assert first_moments
    for name in first_moments:
        np.testing.assert_allclose(accumulated[0][name], whole[0][name], atol=1e-6, err_msg=name)


def test_adapters_move_and_the_base_stays(small):
    spec = small.SPECS["lora"]
    before = small.fresh_state(spec)
    base = jax.tree.map(np.array, before.params)
    adapters = jax.tree.map(np.array, before.lora)
    after, _ = train_step(small.CONFIG, spec, small.STEPS, before, training_batch(small.make_rows(9), spec, 0))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, base, after.params)))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, adapters, after.lora)))


def test_full_training_moves_every_weight(small):
    before = small.fresh_state(small.SPEC)
    weights = jax.tree.map(np.array, trainable(before))
    batch = training_batch(small.make_rows(9), small.SPEC, 0)
    after, metrics = train_step(small.CONFIG, small.SPEC, small.STEPS, before, batch)
    assert int(after.step) == 1
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, weights, trainable(after))))
    assert float(metrics.learning_rate) == pytest.approx(small.SPEC.optimizer.learning_rate / 3)


def test_padding_changes_neither_loss_nor_count(small):
    rows = small.make_rows(1, shortest=20, longest=20)
    state = small.fresh_state(small.SPEC)
    token_ids, mask = rows.token_ids[0][None], rows.loss_masks[0][None]
    tight = batch_loss(small.CONFIG, small.SPEC, state, Batch(token_ids, mask, np.ones_like(mask)))
    wide = [np.pad(leaf, ((0, 0), (0, 12))) for leaf in (token_ids, mask, np.ones_like(mask))]
    padded = batch_loss(small.CONFIG, small.SPEC, state, Batch(*wide))
    assert int(padded[1]) == int(tight[1]) == 17
    assert float(padded[0]) == pytest.approx(float(tight[0]), rel=1e-5)
