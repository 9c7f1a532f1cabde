import numpy as np
import pytest

from tunix_rt_common.specs import SftSpec
from tunix_rt_trainer.engine.batches import bucket, evaluation_batches, examples_of_step, total_steps, training_batch


def test_every_epoch_visits_every_row_once_in_another_order():
    stream = np.concatenate([examples_of_step(3, step, 4, 12) for step in range(6)])
    assert sorted(stream[:12]) == sorted(stream[12:]) == list(range(12))
    assert list(stream[:12]) != list(stream[12:])


def test_order_is_the_same_in_every_process_and_release():
    assert examples_of_step(7, 0, 8, 8).tolist() == [4, 1, 6, 3, 2, 7, 5, 0]


def test_another_seed_gives_another_order():
    assert examples_of_step(1, 0, 50, 50).tolist() != examples_of_step(2, 0, 50, 50).tolist()


def test_last_batch_of_an_epoch_borrows_from_the_next_epoch():
    straddling = examples_of_step(3, 2, 4, 10)
    assert straddling[2:].tolist() == examples_of_step(3, 1, 10, 10)[:2].tolist()


def test_batch_larger_than_the_split_holds_several_epochs():
    assert sorted(examples_of_step(0, 0, 6, 3)) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("fields", "rows", "expected"),
    [
        ({"epochs": 1, "batch_size": 4}, 10, 3),
        ({"epochs": 2, "batch_size": 4}, 10, 5),
        ({"epochs": 1.1, "batch_size": 1}, 10, 11),
        ({"epochs": 0.001, "batch_size": 32}, 10, 1),
        ({"epochs": 100, "batch_size": 4, "max_steps": 7}, 10, 7),
        ({"epochs": 1, "batch_size": 4, "max_steps": 7}, 10, 3),
    ],
)
def test_run_ends_with_its_epochs_or_its_steps_whichever_is_first(fields, rows, expected):
    assert total_steps(SftSpec(**fields), rows) == expected


def test_training_batch_holds_its_rows_masked_and_split_into_micro_batches(small):
    rows = small.make_rows(9)
    batch = training_batch(rows, small.SPEC, 4)
    assert batch.token_ids.shape == (2, 2, 32)
    for place, row in enumerate(examples_of_step(small.SPEC.seed, 4, 4, 9)):
        length = len(rows.token_ids[row])
        index = divmod(place, 2)
        assert batch.token_ids[index][:length].tolist() == rows.token_ids[row].tolist()
        assert batch.loss_weights[index].sum() == length - 3
        assert batch.segments[index].tolist() == [1] * length + [0] * (32 - length)


def test_packed_rows_follow_each_other_in_segments_and_predict_none_of_each_others_tokens(small):
    rows = small.pack(small.make_rows(9), 64)
    batch = training_batch(rows, small.SPEC, 0)
    for place, pack in enumerate(examples_of_step(small.SPEC.seed, 0, 4, len(rows.packs))):
        index, members = divmod(place, 2), rows.packs[pack]
        lengths = [len(rows.token_ids[row]) for row in members]
        expected = np.repeat(range(1, len(members) + 1), lengths)
        assert batch.segments[index].tolist() == expected.tolist() + [0] * (64 - sum(lengths))
        assert (
            batch.token_ids[index][: sum(lengths)].tolist()
            == np.concatenate([rows.token_ids[row] for row in members]).tolist()
        )
        assert not batch.loss_weights[index][np.cumsum([0, *lengths[:-1]])].any()
        assert batch.loss_weights[index].sum() == sum(lengths) - 3 * len(members)


def test_evaluation_counts_every_row_once_although_its_batches_are_full(small):
    rows = small.make_rows(7)
    batches = list(evaluation_batches(rows, 4))
    assert [len(batch.token_ids) for batch in batches] == [4, 4]
    assert sum(batch.loss_weights.sum() for batch in batches) == rows.report.trained_tokens


def test_padding_takes_few_lengths_and_at_most_half_of_a_row_again():
    lengths = {tokens: bucket(tokens) for tokens in range(1, 4097)}
    assert len(set(lengths.values())) == 15
    assert all(padded >= tokens for tokens, padded in lengths.items())
    assert all(padded <= 1.5 * tokens for tokens, padded in lengths.items() if tokens > 32)
