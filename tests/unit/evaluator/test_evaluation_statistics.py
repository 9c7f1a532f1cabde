"""Intervals and tests against published numbers, and against what must hold for any counts."""

import math
import random
from collections.abc import Callable
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tunix_rt_common.reports import ItemResult
from tunix_rt_evaluator.statistics import (
    Pair,
    effective_size,
    items_needed,
    mcnemar_exact,
    minimum_detectable_difference,
    paired_difference,
    score,
    slices,
    tango_interval,
    wilson_interval,
)


def pairs_of(both: int, wins: int, losses: int, neither: int) -> list[Pair]:
    outcomes = [(True, True)] * both + [(True, False)] * wins + [(False, True)] * losses + [(False, False)] * neither
    return [Pair(f"item-{k}", f"prompt-{k}", *outcome) for k, outcome in enumerate(outcomes)]


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_is_that_of_newcombe_1998_table_1(correct: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(correct, n)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_tango_interval_is_that_of_the_airway_example_of_fagerland_2014() -> None:
    interval = tango_interval(1, 7, 21)
    assert interval.low == pytest.approx(-0.5172, abs=5e-5)
    assert interval.high == pytest.approx(-0.0260, abs=5e-5)


def test_exact_mcnemar_is_that_of_the_airway_example_of_fagerland_2014() -> None:
    assert mcnemar_exact(1, 7) == pytest.approx(0.0703, abs=5e-5)


@given(st.integers(0, 400), st.integers(0, 400))
def test_exact_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar_exact(wins, losses) == pytest.approx(expected, rel=1e-9)


@given(st.integers(1, 10_000), st.data(), st.floats(0.6, 0.999))
def test_wilson_interval_holds_the_share_and_stays_within_0_and_1(n: int, data: st.DataObject, level: float) -> None:
    correct = data.draw(st.integers(0, n))
    interval = wilson_interval(correct, n, level)
    assert 0 <= interval.low <= correct / n <= interval.high <= 1


@pytest.mark.parametrize("n", [1, 2, 20, 5000])
def test_no_discordant_pair_still_leaves_doubt(n: int) -> None:
    z2 = NormalDist().inv_cdf(0.975) ** 2
    interval = tango_interval(0, 0, n)
    assert interval.high == pytest.approx(z2 / (n + z2))
    assert interval.low == -interval.high


TABLES = st.tuples(*[st.integers(0, 60)] * 4).filter(any)


@given(TABLES)
def test_interval_holds_the_difference_and_stays_within_minus_1_and_1(table: tuple[int, int, int, int]) -> None:
    paired = paired_difference(pairs_of(*table))
    assert -1 <= paired.interval.low <= paired.difference <= paired.interval.high <= 1


@given(TABLES)
def test_swapping_the_models_mirrors_the_difference(table: tuple[int, int, int, int]) -> None:
    both, wins, losses, neither = table
    one, other = paired_difference(pairs_of(*table)), paired_difference(pairs_of(both, losses, wins, neither))
    assert one.difference == -other.difference
    assert (one.interval.low, one.interval.high) == (-other.interval.high, -other.interval.low)
    assert one.p_value == other.p_value


def test_tango_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, n, rates = random.Random(7), 60, (0.15, 0.08)
    covered = 0
    for _ in range(1_000):
        draws = [rng.random() for _ in range(n)]
        wins = sum(draw < rates[0] for draw in draws)
        losses = sum(rates[0] <= draw < sum(rates) for draw in draws)
        interval = tango_interval(wins, losses, n)
        covered += interval.low <= rates[0] - rates[1] <= interval.high
    assert 0.93 <= covered / 1_000 <= 0.975


def test_items_of_their_own_prompts_count_in_full() -> None:
    assert effective_size([1, 0, 0, 1, 1], list("abcde")) == 5


def test_copies_of_an_item_add_nothing() -> None:
    once = [float(k % 3 == 0) for k in range(50)]
    copied = [value for value in once for _ in range(4)]
    groups = [str(k // 4) for k in range(200)]
    assert effective_size(copied, groups) == pytest.approx(50, rel=0.03)


def test_unrelated_items_of_one_prompt_keep_most_of_their_weight() -> None:
    rng = random.Random(11)
    values = [float(rng.random() < 0.5) for _ in range(2_000)]
    assert effective_size(values, [str(k // 4) for k in range(2_000)]) > 1_600


def test_equal_values_count_once_per_prompt() -> None:
    assert effective_size([1.0] * 12, list("aaabbbcccddd")) == 4


def test_repeated_prompts_widen_the_interval_of_the_difference() -> None:
    lone = pairs_of(40, 12, 4, 44)
    repeated = [
        Pair(f"{pair.item_id}-{copy}", pair.group, pair.candidate_correct, pair.baseline_correct)
        for pair in lone
        for copy in range(5)
    ]
    few, many = paired_difference(lone), paired_difference(repeated)
    assert many.difference == few.difference
    assert many.interval.low == pytest.approx(few.interval.low, abs=0.003)
    assert many.p_value == few.p_value


def test_score_leaves_unscored_items_out_of_the_accuracy(make_items: Callable[..., tuple[ItemResult, ...]]) -> None:
    measured = score(make_items("+++-??"))
    assert (measured.correct, measured.scored, measured.unscored, measured.accuracy) == (3, 4, 2, 0.75)
    assert measured.interval == wilson_interval(3, 4)


def test_nothing_scored_has_no_accuracy(make_items: Callable[..., tuple[ItemResult, ...]]) -> None:
    measured = score(make_items("??"))
    assert (measured.accuracy, measured.interval, measured.unscored) == (None, None, 2)


def test_each_slice_is_scored_on_its_own(make_items: Callable[..., tuple[ItemResult, ...]]) -> None:
    easy, hard, neither = make_items("+-+")
    items = [easy.model_copy(update={"difficulty": "easy"}), hard.model_copy(update={"difficulty": "hard"}), neither]
    found = slices(items)
    assert set(found) == {"difficulty"}
    assert {value: measured.accuracy for value, measured in found["difficulty"].items()} == {"easy": 1.0, "hard": 0.0}


@given(st.integers(200, 100_000), st.floats(0.15, 0.6))
def test_minimum_detectable_difference_needs_just_these_items(n: int, discordance: float) -> None:
    delta = minimum_detectable_difference(n, discordance)
    assert delta is not None
    spread = max(discordance, delta)
    z_a, z_b = NormalDist().inv_cdf(0.975), NormalDist().inv_cdf(0.8)
    needed = ((z_a * math.sqrt(spread) + z_b * math.sqrt(spread - delta**2)) / delta) ** 2
    assert needed == pytest.approx(n, rel=1e-6)


def test_three_items_can_detect_nothing() -> None:
    assert minimum_detectable_difference(3, 0.5) is None


def test_the_items_said_to_be_needed_are_enough_and_one_fewer_is_not() -> None:
    pairs = pairs_of(60, 10, 10, 20)
    needed = items_needed(pairs, 0.02)
    assert needed is not None
    assert tango_interval(needed * 0.1, needed * 0.1, needed).low > -0.02
    assert tango_interval((needed - 1) * 0.1, (needed - 1) * 0.1, needed - 1).low <= -0.02


def test_no_number_of_items_settles_a_difference_on_the_margin() -> None:
    assert items_needed(pairs_of(60, 10, 20, 10), 0.10) is None
