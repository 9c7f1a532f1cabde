"""How sure a score is: intervals, tests and sample sizes for right-or-wrong items, alone and in pairs.

Items that share a prompt (`ItemResult.group`) are not independent. Every interval is therefore taken at the effective
sample size n / deff (Rao & Scott 1992, Biometrics 48:577): deff is the variance of the mean with whole prompts as the
unit, over the variance if all items were independent, and never below 1. With one item per prompt deff is exactly 1.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from tunix_rt_common.reports import Dimension, Interval, ItemResult, PairedDifference, Score

MAX_ITEMS_NEEDED = 1_000_000
_DIMENSIONS: tuple[Dimension, ...] = ("section", "category", "difficulty")


def normal_quantile(confidence: float) -> float:
    """The z of a two-sided interval: 1.96 for a confidence of 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson_interval(correct: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22:209; method 3 of Newcombe 1998a).

    Stays within [0, 1] and keeps a width at 0 and n correct. `n` is positive and may be fractional.
    """
    z = normal_quantile(confidence)
    p = correct / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return Interval(low=low, high=high, confidence=confidence)


def effective_size(values: Sequence[float], groups: Sequence[str]) -> float:
    """How many independent items tell as much about the mean as these do: n / deff, between 1 and n.

    Where all values are equal there is no variance to compare, and each group counts as one item.
    """
    n = len(values)
    mean = sum(values) / n
    residuals: dict[str, float] = defaultdict(float)
    for value, group in zip(values, groups, strict=True):
        residuals[group] += value - mean
    spread = sum((value - mean) ** 2 for value in values)
    if len(residuals) == n:
        return float(n)
    if spread == 0 or len(residuals) == 1:
        return float(len(residuals))
    independent = n / (n - 1) * spread
    clustered = len(residuals) / (len(residuals) - 1) * sum(total**2 for total in residuals.values())
    return max(1.0, n / max(1.0, clustered / independent))


def score(items: Iterable[ItemResult], confidence: float = 0.95) -> Score:
    """Counts, accuracy over the scored items, and its Wilson interval at the effective sample size."""
    kept = list(items)
    scored = [item for item in kept if item.outcome != "unscored"]
    right = [float(item.outcome == "correct") for item in scored]
    interval = None
    if scored:
        size = effective_size(right, [item.group for item in scored])
        interval = wilson_interval(sum(right) / len(right) * size, size, confidence)
    return Score(
        correct=int(sum(right)),
        scored=len(scored),
        unscored=len(kept) - len(scored),
        accuracy=sum(right) / len(right) if right else None,
        interval=interval,
    )


def slices(items: Sequence[ItemResult], confidence: float = 0.95) -> dict[Dimension, dict[str, Score]]:
    """The score of each section, category and difficulty; items without one are in no slice of that dimension."""
    found: dict[Dimension, dict[str, Score]] = {}
    for dimension in _DIMENSIONS:
        members: dict[str, list[ItemResult]] = defaultdict(list)
        for item in items:
            value: str | None = getattr(item, dimension)
            if value is not None:
                members[value].append(item)
        if members:
            found[dimension] = {value: score(members[value], confidence) for value in sorted(members)}
    return found


def tango_interval(only_candidate: float, only_baseline: float, n: float, confidence: float = 0.95) -> Interval:
    """Tango's score interval for the difference of two paired proportions (Tango 1998, Stat. Med. 17:891).

    Chosen over Newcombe's method 10 because it inverts the very test the gate wants (is the difference -margin?),
    needs only the discordant pairs, and keeps its coverage at tiny n; without discordant pairs it is
    ±z²/(n + z²). Counts may be fractional, n is positive; the difference is (only_candidate - only_baseline) / n.
    """
    z = normal_quantile(confidence)
    low = _tango_low(only_candidate, only_baseline, n, z)
    high = -_tango_low(only_baseline, only_candidate, n, z)
    return Interval(low=low, high=high, confidence=confidence)


def _tango_low(wins: float, losses: float, n: float, z: float) -> float:
    """The smallest difference that the score test at z does not reject, by bisection to the last bit that matters."""
    low, high = -1.0, (wins - losses) / n
    for _ in range(60):
        middle = (low + high) / 2
        if _rejects(middle, wins, losses, n, z):
            low = middle
        else:
            high = middle
    return high


def _rejects(difference: float, wins: float, losses: float, n: float, z: float) -> bool:
    """Whether the observed counts lie more than z standard errors above this difference, under its restricted MLE."""
    b = -wins - losses + (2 * n - wins + losses) * difference
    c = -losses * difference * (1 - difference)
    loss_rate = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    variance = n * (2 * loss_rate + difference * (1 - difference))
    return wins - losses - n * difference > z * math.sqrt(max(0.0, variance))


def mcnemar_exact(wins: int, losses: int) -> float:
    """Two-sided exact p of McNemar's test: twice the smaller binomial(1/2) tail of the discordant pairs, at most 1."""
    discordant, k = wins + losses, min(wins, losses)
    if discordant == 0:
        return 1.0
    log_term = math.lgamma(discordant + 1) - math.lgamma(k + 1) - math.lgamma(discordant - k + 1)
    term = tail = math.exp(log_term - discordant * math.log(2))
    while k > 0 and term > tail * 1e-17:
        term *= k / (discordant - k + 1)
        tail += term
        k -= 1
    return min(1.0, 2 * tail)


@dataclass(frozen=True, slots=True)
class Pair:
    """One item that both models were scored on; `group` is its prompt."""

    item_id: str
    group: str
    candidate_correct: bool
    baseline_correct: bool

    @property
    def gain(self) -> int:
        """+1 where only the candidate is right, -1 where only the baseline is, else 0."""
        return self.candidate_correct - self.baseline_correct


def effective_pairs(pairs: Sequence[Pair]) -> float:
    """The effective number of pairs behind the mean gain; see `effective_size`."""
    return effective_size([pair.gain for pair in pairs], [pair.group for pair in pairs])


def paired_difference(pairs: Sequence[Pair], confidence: float = 0.95) -> PairedDifference:
    """Candidate against baseline on at least one pair: the 2x2 table, Tango's interval, and McNemar's exact p.

    The p-value counts each prompt once, by the sign of its net gain; with one item per prompt this is McNemar's test.
    """
    n = len(pairs)
    wins = sum(pair.gain == 1 for pair in pairs)
    losses = sum(pair.gain == -1 for pair in pairs)
    both = sum(pair.candidate_correct and pair.baseline_correct for pair in pairs)
    shrink = effective_pairs(pairs) / n
    net: dict[str, int] = defaultdict(int)
    for pair in pairs:
        net[pair.group] += pair.gain
    return PairedDifference(
        n=n,
        both_correct=both,
        only_candidate=wins,
        only_baseline=losses,
        both_wrong=n - both - wins - losses,
        difference=(wins - losses) / n,
        interval=tango_interval(wins * shrink, losses * shrink, n * shrink, confidence),
        p_value=mcnemar_exact(sum(gain > 0 for gain in net.values()), sum(gain < 0 for gain in net.values())),
    )


def minimum_detectable_difference(
    n: float, discordance: float, confidence: float = 0.95, power: float = 0.8
) -> float | None:
    """The smallest true difference that a paired test on `n` items finds with this power; None where there is none.

    Solves Connor's (1987, Biometrics 43:207) sample size n = (z_a √ψ + z_b √(ψ - δ²))² / δ² for δ. The discordance ψ,
    the share of items on which the models disagree, cannot be less than δ and is raised to it where it would be.
    """
    z_a, z_b = normal_quantile(confidence), NormalDist().inv_cdf(power)

    def is_found(difference: float) -> bool:
        psi = max(discordance, difference)
        return difference * math.sqrt(n) >= z_a * math.sqrt(psi) + z_b * math.sqrt(psi - difference**2)

    if not is_found(1.0):
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if is_found(middle) else (middle, high)
    return high


def items_needed(pairs: Sequence[Pair], margin: float, confidence: float = 0.95) -> int | None:
    """Roughly how many items like these move the whole interval to one side of -margin; None beyond a million."""
    n, shrink = len(pairs), effective_pairs(pairs) / len(pairs)
    win_rate = sum(pair.gain == 1 for pair in pairs) / n
    loss_rate = sum(pair.gain == -1 for pair in pairs) / n

    def is_settled(items: int) -> bool:
        size = items * shrink
        interval = tango_interval(win_rate * size, loss_rate * size, size, confidence)
        return interval.low > -margin or interval.high < -margin

    if not is_settled(MAX_ITEMS_NEEDED):
        return None
    low, high = n, MAX_ITEMS_NEEDED
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_settled(middle) else (middle + 1, high)
    return high
