import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tunix_rt_common.errors import UnusableData
from tunix_rt_trainer.engine.batches import Batch, examples_of_step
from tunix_rt_trainer.engine.loop import Hook, TrainingData
from tunix_rt_trainer.engine.step import batch_loss


@pytest.fixture(scope="module")
def finished(small):
    """One whole run: its infos, its last state, the steps saved and those a hook of every=4 saw."""
    saved, seen = [], []
    hook = Hook(lambda info, state: seen.append((info.step, int(state.step))), every=4)
    data = TrainingData(small.make_rows(10), small.make_rows(5, seed=9))
    spec = small.SPEC
    infos, last = small.finish(spec, small.fresh_state(spec), data, lambda info, _: saved.append(info.step), [hook])
    return infos, last, saved, seen


def test_every_step_is_reported_once_and_in_order(finished):
    infos, last, _, _ = finished
    assert [info.step for info in infos] == list(range(21))
    assert {info.total_steps for info in infos} == {20}
    assert int(last.step) == 20


def test_untrained_model_is_validated_first_so_that_the_improvement_shows(finished):
    infos = finished[0]
    validated = {info.step: info.validation_loss for info in infos if info.validation_loss is not None}
    assert list(validated) == [0, 7, 14, 20]
    assert infos[0].loss is None
    assert validated[20] < validated[0] - 0.05


def test_checkpoints_and_hooks_are_due_at_their_steps_and_after_the_last(finished):
    _, _, saved, seen = finished
    assert saved == [11, 20]
    assert seen == [(step, step) for step in (4, 8, 12, 16, 20)]


def test_step_numbers_say_what_was_read_and_how_fast(small, finished):
    rows, infos = small.make_rows(10), finished[0]
    for info in infos[1:]:
        chosen = examples_of_step(small.SPEC.seed, info.step - 1, 4, 10)
        assert info.tokens == sum(len(rows.token_ids[row]) for row in chosen)
        assert info.trained_tokens == info.tokens - 4 * 3
        assert info.tokens_per_s > 0
        assert info.gradient_norm > 0
    assert [info.eta_s is None for info in infos[:3]] == [True, True, False]
    assert infos[-1].eta_s == 0


def test_validation_loss_is_a_mean_over_tokens_not_over_rows(small, finished):
    infos, state, _, _ = finished
    rows = small.make_rows(5, seed=9)
    loss_sum = count = 0.0
    for token_ids, mask in zip(rows.token_ids, rows.loss_weights, strict=True):
        padded = (np.pad(leaf, (0, 32 - len(leaf)))[None] for leaf in (token_ids, mask, np.ones_like(mask)))
        totals = batch_loss(small.CONFIG, small.SPEC, state, Batch(*padded))
        loss_sum, count = loss_sum + float(totals.loss), count + float(totals.count)
    assert infos[-1].validation_loss == pytest.approx(loss_sum / count, rel=1e-5)


class Cancelled(Exception):
    pass


def cancel(info, state):
    raise Cancelled(f"after step {info.step} with the state of step {int(state.step)}")


def test_hook_ends_the_run_by_raising(small):
    data, hook = TrainingData(small.make_rows(10)), Hook(cancel, every=3)
    with pytest.raises(Cancelled, match="after step 3 with the state of step 3"):
        small.finish(small.SPEC, small.fresh_state(small.SPEC), data, hooks=[hook])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_hook_with_a_condition_runs_at_the_first_step_that_finds_it_true(small):
    answers = iter([False, False, False, False, True])
    data, hook = TrainingData(small.make_rows(10)), Hook(cancel, when=lambda: next(answers))
    with pytest.raises(Cancelled, match="after step 5 with the state of step 5"):
        small.finish(small.SPEC, small.fresh_state(small.SPEC), data, hooks=[hook])


def test_run_without_validation_rows_reports_no_validation_loss(small):
    infos, _ = small.finish(small.SPEC, small.fresh_state(small.SPEC), TrainingData(small.make_rows(10)))
    assert [info.step for info in infos] == list(range(1, 21))
    assert {info.validation_loss for info in infos} == {None}


def test_diverged_run_names_step_rows_and_last_checkpoint_and_saves_nothing_more(small):
    rows, saved, spec = small.make_rows(10), [], small.SPEC
    start = small.fresh_state(spec)
    weights = jax.tree.map(lambda leaf: leaf * jnp.nan, start.params)
    broken = replace(start, step=jnp.asarray(2, jnp.int32), params=weights)
    with pytest.raises(UnusableData) as caught:
        small.finish(spec, broken, TrainingData(rows), lambda info, _: saved.append(info.step))
    message = str(caught.value)
    assert "step 3" in message
    assert "last checkpoint is of step 2" in message
    for row in examples_of_step(spec.seed, 2, 4, 10):
        assert rows.row_ids[row] in message
    assert saved == []


def test_model_that_is_broken_before_training_is_refused_at_once(small):
    start = small.fresh_state(small.SPEC)
    broken = replace(start, params=jax.tree.map(lambda leaf: leaf * jnp.nan, start.params))
    with pytest.raises(UnusableData, match="validation loss at step 0 is nan"):
        small.finish(small.SPEC, broken, TrainingData(small.make_rows(4), small.make_rows(2)))
