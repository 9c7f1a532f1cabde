"""Which rows share a sequence, and that sharing changes nothing but the padding."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunix_rt_trainer.engine.batches import evaluation_batches
from tunix_rt_trainer.engine.packing import best_fit, one_each
from tunix_rt_trainer.engine.state import trainable, with_trained
from tunix_rt_trainer.engine.step import batch_loss


@given(st.lists(st.integers(1, 50), max_size=60))
def test_each_row_lies_in_one_sequence_that_holds_it(lengths):
    packs = best_fit(lengths, 50)
    assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
    filled = [sum(lengths[row] for row in pack) for pack in packs]
    assert all(tokens <= 50 for tokens in filled)
    assert sum(tokens <= 25 for tokens in filled) <= 1, "two that are half empty would be one"


def test_rows_are_packed_alike_whenever_they_are_packed():
    lengths = np.random.default_rng(0).integers(1, 50, 200).tolist()
    assert best_fit(lengths, 64) == best_fit(lengths, 64)
    assert len(best_fit(lengths, 64)) < 1.05 * sum(lengths) / 64 + 1
    assert best_fit([5, 3, 3, 5], 8) == ((0, 1), (3, 2))
    assert one_each(2) == ((0,), (1,))


@pytest.mark.parametrize("kind", ["full", "lora", "distill"])
def test_packed_rows_have_the_loss_and_the_gradient_of_rows_by_themselves(small, kind):
    rows, spec = small.make_rows(8, shortest=18), small.SPECS[kind]
    state = small.fresh_state(spec)

    def totals(rows, spec):
        def loss(weights, batch):
            part = batch_loss(small.CONFIG, spec, with_trained(state, weights), batch)
            return part.loss, part.count

        slope_of = jax.jit(jax.value_and_grad(loss, has_aux=True))
        parts = [slope_of(trainable(state), batch) for batch in evaluation_batches(rows, 4)]
        return jax.tree.map(lambda *leaves: sum(leaves), *parts)

    with jax.default_matmul_precision("highest"):
        (alone, count), slope = totals(rows, spec)
        packing = spec.model_copy(update={"packing": True})
        (packed, packed_count), packed_slope = totals(small.pack(rows, 64), packing)
    assert float(packed_count) == float(count)
    np.testing.assert_allclose(packed, alone, rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5), packed_slope, slope)
