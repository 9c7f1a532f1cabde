"""The regression gate: may this candidate replace its baseline?

Pure: two reports and a policy in, a verdict out. What is missing, unscored, or not comparable is never a GO: the gate
says INCONCLUSIVE and what to do about it. The rules and their order are in docs/gate.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tunix_rt_common.reports import Decision, EvalReport, Interval, PairedDifference, Verdict, digest
from tunix_rt_common.specs import GatePolicy
from tunix_rt_evaluator.statistics import (
    Pair,
    effective_pairs,
    items_needed,
    minimum_detectable_difference,
    paired_difference,
    score,
)


class Ruling(NamedTuple):
    """A decision and the words for it."""

    decision: Decision
    reason: str


def decide(baseline: EvalReport | None, candidate: EvalReport, policy: GatePolicy) -> Verdict:
    """Compare a candidate's report with its baseline's, item by item, and rule by the policy.

    `baseline` is None where no champion exists. The report digests in the verdict are those of their canonical JSON,
    which is also what the store names them by.
    """
    mismatch = _mismatch(baseline, candidate) if baseline else None
    pairs = _pairs(baseline, candidate) if baseline and not mismatch else []
    paired = paired_difference(pairs, policy.confidence) if pairs else None
    ruling = _rule_on_report("candidate", candidate, policy) or _rule_on_accuracy(candidate, policy)
    if baseline is None:
        ruling = ruling or _rule_unopposed(candidate, policy)
    else:
        ruling = ruling or mismatch or _rule_on_report("baseline", baseline, policy)
    return Verdict(
        **(ruling or _rule_on_pairs(pairs, paired, policy))._asdict(),
        candidate_sha256=candidate.model_sha256,
        baseline_sha256=baseline.model_sha256 if baseline else None,
        candidate_report_sha256=digest(candidate),
        baseline_report_sha256=digest(baseline) if baseline else None,
        eval_set_sha256=candidate.eval_set_sha256,
        judge=candidate.judge,
        policy=policy,
        paired=paired,
        gained=tuple(pair.item_id for pair in pairs if pair.gain == 1),
        lost=tuple(pair.item_id for pair in pairs if pair.gain == -1),
        minimum_detectable_difference=_detectable(pairs, policy),
    )


def _mismatch(baseline: EvalReport, candidate: EvalReport) -> Ruling | None:
    same_items = {item.item_id for item in baseline.items} == {item.item_id for item in candidate.items}
    if baseline.eval_set_sha256 != candidate.eval_set_sha256 or not same_items:
        return Ruling(
            "INCONCLUSIVE",
            f"Baseline and candidate answered different questions (evaluation sets {baseline.eval_set_sha256[:12]} and "
            f"{candidate.eval_set_sha256[:12]}): evaluate the baseline on the candidate's set, then decide again.",
        )
    if baseline.judge != candidate.judge:
        return Ruling(
            "INCONCLUSIVE",
            f"The baseline was judged by {baseline.judge} and the candidate by {candidate.judge}: "
            "evaluate the baseline with the candidate's judge, then decide again.",
        )
    return None


def _pairs(baseline: EvalReport, candidate: EvalReport) -> list[Pair]:
    """The items scored in both reports, in the candidate's order."""
    before = {item.item_id: item.outcome for item in baseline.items if item.outcome != "unscored"}
    return [
        Pair(item.item_id, item.group, item.outcome == "correct", before[item.item_id] == "correct")
        for item in candidate.items
        if item.outcome != "unscored" and item.item_id in before
    ]


def _rule_on_report(name: str, report: EvalReport, policy: GatePolicy) -> Ruling | None:
    """INCONCLUSIVE where a report has too many unscored items, or too few scored ones, to say anything."""
    total = len(report.items)
    scored = sum(item.outcome != "unscored" for item in report.items)
    unscored = total - scored
    if unscored > policy.max_unscored * total:
        return Ruling(
            "INCONCLUSIVE",
            f"{unscored} of the {name}'s {total} items could not be scored ({_percent(unscored / total)}; the policy "
            f"allows {_percent(policy.max_unscored)}): see their reasons in the report, then evaluate again.",
        )
    if scored < policy.min_items:
        return Ruling(
            "INCONCLUSIVE",
            f"Only {scored} of the {name}'s items were scored; the policy asks for at least {policy.min_items}: "
            "evaluate on more items.",
        )
    return None


def _rule_on_accuracy(candidate: EvalReport, policy: GatePolicy) -> Ruling | None:
    measured = score(candidate.items, policy.confidence)
    if measured.accuracy is None or measured.accuracy >= policy.min_accuracy:
        return None
    return Ruling(
        "NO-GO",
        f"The candidate is right on {measured.correct} of {measured.scored} items ({_percent(measured.accuracy)}); "
        f"the policy asks for at least {_percent(policy.min_accuracy)}.",
    )


def _rule_unopposed(candidate: EvalReport, policy: GatePolicy) -> Ruling:
    measured = score(candidate.items, policy.confidence)
    known = "" if measured.interval is None else f" ({_range(measured.interval, _percent)})"
    return Ruling(
        "GO",
        "There is no champion to be worse than. "
        f"The candidate is right on {measured.correct} of {measured.scored} items{known}.",
    )


def _rule_on_pairs(pairs: Sequence[Pair], paired: PairedDifference | None, policy: GatePolicy) -> Ruling:
    """The rule that the gate exists for: where does the interval of the difference lie, seen from -margin?"""
    if paired is None or paired.n < policy.min_items:
        return Ruling(
            "INCONCLUSIVE",
            f"Only {len(pairs)} items were scored for both models; the policy asks for at least {policy.min_items}: "
            "evaluate on more items.",
        )
    measured = _measured(paired)
    margin = f"{100 * policy.margin:.1f} points"
    if paired.interval.low > -policy.margin:
        better = " It is better than the baseline." if paired.interval.low > 0 else ""
        return Ruling("GO", f"{measured} A loss of {margin} or more is ruled out.{better}")
    if paired.interval.high < -policy.margin:
        return Ruling("NO-GO", f"{measured} The loss is larger than the {margin} that the policy allows.")
    return Ruling("INCONCLUSIVE", f"{measured} {_what_would_settle(pairs, policy, margin)}")


def _measured(paired: PairedDifference) -> str:
    candidate = (paired.both_correct + paired.only_candidate) / paired.n
    baseline = (paired.both_correct + paired.only_baseline) / paired.n
    return (
        f"On the same {paired.n} items the candidate is right on {_percent(candidate)} and the baseline on "
        f"{_percent(baseline)}: {_points(paired.difference)} points ({_range(paired.interval, _points)}), "
        f"{paired.only_candidate} items gained and {paired.only_baseline} lost."
    )


def _what_would_settle(pairs: Sequence[Pair], policy: GatePolicy, margin: str) -> str:
    needed = items_needed(pairs, policy.margin, policy.confidence)
    open_question = f"A loss of {margin} can be neither ruled out nor shown with so few items:"
    if needed is None:
        return f"{open_question} the difference lies so close to the margin that more items are unlikely to settle it."
    return f"{open_question} about {needed - len(pairs):,} more (some {needed:,} in all) would be needed."


def _detectable(pairs: Sequence[Pair], policy: GatePolicy) -> float | None:
    """At 80 % power, with the observed discordance plus one win and one loss: none seen does not mean none exist."""
    if not pairs:
        return None
    discordance = (sum(pair.gain != 0 for pair in pairs) + 2) / (len(pairs) + 2)
    return minimum_detectable_difference(effective_pairs(pairs), discordance, policy.confidence)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _range(interval: Interval, show: Callable[[float], str]) -> str:
    return f"{100 * interval.confidence:g} % interval {show(interval.low)} to {show(interval.high)}"
