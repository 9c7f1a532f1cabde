import jax
import numpy as np
import pytest

from tunix_rt_common.specs import DpoSpec, LoraSpec, SftSpec
from tunix_rt_trainer.engine.batches import Batch, training_batch
from tunix_rt_trainer.engine.state import trainable
from tunix_rt_trainer.engine.step import batch_loss, program_of, train_step


def step_with(small, spec, rows):
    state, metrics = train_step(small.CONFIG, spec, small.STEPS, small.fresh_state(spec), training_batch(rows, spec, 0))
    return small.as_arrays(state), metrics


@pytest.mark.parametrize("kind", ["full", "lora", "dpo", "orpo", "distill"])
def test_accumulated_micro_batches_equal_one_batch(small, kind):
    spec = small.SPECS[kind]
    rows = small.data_for(spec, 12)
    with jax.default_matmul_precision("highest"):
        accumulated = step_with(small, spec, rows)
        whole = step_with(small, spec.model_copy(update={"accumulation": 1}), rows)
    assert float(accumulated[1].loss) == pytest.approx(float(whole[1].loss), rel=1e-5)
    assert float(accumulated[1].gradient_norm) == pytest.approx(float(whole[1].gradient_norm), rel=1e-5)
    for name, measure in whole[1].measures.items():
        assert float(accumulated[1].measures[name]) == pytest.approx(float(measure), rel=1e-5, abs=1e-6), name
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


def test_teacher_stays_as_it_is(small):
    spec = small.SPECS["distill"]
    before = small.fresh_state(spec)
    teacher = jax.tree.map(np.array, before.teacher.params)
    after, _ = train_step(small.CONFIG, spec, small.STEPS, before, training_batch(small.make_rows(9), spec, 0))
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, teacher, after.teacher.params)))


def test_runs_that_differ_in_data_and_intervals_alone_share_their_programs():
    spec = SftSpec(lora=LoraSpec(rank=4))
    other = SftSpec(lora=LoraSpec(rank=4), seed=3, epochs=2.0, checkpoint_every=7, step_weights={"verify": 2.0})
    assert hash(program_of(other)) == hash(program_of(spec))
    assert program_of(other) == program_of(spec)
    assert program_of(SftSpec(packing=True)) != program_of(SftSpec())
    assert program_of(DpoSpec(method="dpo", beta=0.2)) != program_of(DpoSpec(method="dpo", beta=0.3))


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
    token_ids, mask = rows.token_ids[0][None], rows.loss_weights[0][None]
    tight = batch_loss(small.CONFIG, small.SPEC, state, Batch(token_ids, mask, np.ones_like(mask)))
    wide = [np.pad(leaf, ((0, 0), (0, 12))) for leaf in (token_ids, mask, np.ones_like(mask))]
    padded = batch_loss(small.CONFIG, small.SPEC, state, Batch(*wide))
    assert float(padded.count) == float(tight.count) == 17
    assert float(padded.loss) == pytest.approx(float(tight.loss), rel=1e-5)
