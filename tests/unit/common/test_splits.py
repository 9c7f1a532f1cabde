import hashlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunix_rt_common.splits import assign_splits


def groups(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


def split(count: int, validation: float = 0.1, test: float = 0.1, seed: int = 0) -> dict[str, str]:
    return assign_splits(groups(count), seed=seed, validation_fraction=validation, test_fraction=test)


def sizes(assigned: dict[str, str]) -> tuple[int, int, int]:
    counts = Counter(assigned.values())
    return counts["train"], counts["validation"], counts["test"]


@pytest.mark.parametrize(
    ("count", "validation", "test", "expected"),
    [
        (100, 0.05, 0.05, (90, 5, 5)),
        (100, 0.07, 0.29, (64, 7, 29)),
        (101, 0.1, 0.1, (79, 11, 11)),
        (3, 0.05, 0.05, (1, 1, 1)),
        (2, 0.05, 0.05, (1, 0, 1)),
        (1, 0.05, 0.05, (1, 0, 0)),
        (10, 0.0, 0.0, (10, 0, 0)),
        (10, 0.0, 1.0, (0, 0, 10)),
        (3, 0.5, 0.5, (0, 1, 2)),
        (0, 0.05, 0.05, (0, 0, 0)),
    ],
)
def test_splits_have_exact_counts(count, validation, test, expected):
    assert sizes(split(count, validation, test)) == expected


@given(st.integers(3, 200), st.floats(0.001, 0.49), st.floats(0.001, 0.49))
def test_no_asked_split_is_empty_from_three_groups_on(count, validation, test):
    assert min(sizes(split(count, validation, test))) >= 1


def test_order_and_repetition_of_groups_do_not_matter():
    shuffled = groups(50)[::-1] + groups(50)
    assert assign_splits(shuffled, seed=0, validation_fraction=0.1, test_fraction=0.1) == split(50)


def test_another_seed_draws_another_test_split():
    assert split(200, seed=1) != split(200, seed=2)


def test_growing_dataset_moves_few_groups():
    before, after = split(1000), split(1100)
    assert sum(before[group] != after[group] for group in before) < 50
