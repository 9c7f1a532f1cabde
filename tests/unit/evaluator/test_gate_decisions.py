from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunix_rt_common.reports import EvalReport, Verdict, digest
from tunix_rt_common.specs import GatePolicy
from tunix_rt_evaluator.gate import decide

Maker = Callable[..., EvalReport]
POLICY = GatePolicy()


def test_equal_models_on_enough_items_are_a_go(make_report: Maker) -> None:
    report = make_report("+-" * 150)
    verdict = decide(report, report, POLICY)
    assert verdict.decision == "GO"
    assert verdict.reason == (
        "On the same 300 items the candidate is right on 50.0 % and the baseline on 50.0 %: +0.0 points "
        "(95 % interval -1.3 to +1.3), 0 items gained and 0 lost. A loss of 2.0 points or more is ruled out."
    )


def test_clearly_better_candidate_is_a_go_and_called_better(make_report: Maker) -> None:
    verdict = decide(make_report("+" * 50 + "-" * 50), make_report("+" * 80 + "-" * 20), POLICY)
    assert verdict.decision == "GO"
    assert verdict.reason.endswith("It is better than the baseline.")


def test_clearly_worse_candidate_is_a_no_go_that_names_what_was_lost(make_report: Maker) -> None:
    verdict = decide(make_report("++++" * 25), make_report("+++-" * 25), POLICY)
    assert verdict.decision == "NO-GO"
    assert "-25.0 points" in verdict.reason
    assert len(verdict.lost) == 25
    assert verdict.lost[:2] == ("item-3", "item-7")
    assert verdict.gained == ()


def test_too_few_items_to_tell_are_inconclusive_with_the_number_needed(make_report: Maker) -> None:
    report = make_report("+-" * 25)
    verdict = decide(report, report, POLICY)
    assert verdict.decision == "INCONCLUSIVE"
    assert verdict.reason.endswith("about 139 more (some 189 in all) would be needed.")
    assert decide(make_report("+" * 188), make_report("+" * 188), POLICY).decision == "INCONCLUSIVE"
    assert decide(make_report("+" * 189), make_report("+" * 189), POLICY).decision == "GO"


def test_first_model_is_a_go_because_nobody_is_there_to_be_worse_than(make_report: Maker) -> None:
    verdict = decide(None, make_report("+++-" * 10), POLICY)
    assert verdict.decision == "GO"
    assert verdict.reason.startswith("There is no champion to be worse than. The candidate is right on 30 of 40 items")
    assert (verdict.paired, verdict.baseline_sha256, verdict.minimum_detectable_difference) == (None, None, None)


@pytest.mark.parametrize(
    ("marks", "policy", "decision", "said"),
    [
        ("+" * 19, POLICY, "INCONCLUSIVE", "Only 19 of the candidate's items"),
        ("+" * 90 + "?" * 10, POLICY, "INCONCLUSIVE", "10 of the candidate's 100 items could not be scored"),
        ("?" * 100, POLICY, "INCONCLUSIVE", "100 of the candidate's 100 items"),
        ("", POLICY, "INCONCLUSIVE", "Only 0 of the candidate's items"),
        (
            "+-" * 20,
            GatePolicy(min_accuracy=0.6),
            "NO-GO",
            "20 of 40 items (50.0 %); the policy asks for at least 60.0 %",
        ),
    ],
)
def test_first_model_still_has_to_meet_the_policy(
    make_report: Maker, marks: str, policy: GatePolicy, decision: str, said: str
) -> None:
    verdict = decide(None, make_report(marks), policy)
    assert verdict.decision == decision
    assert said in verdict.reason


def test_low_accuracy_is_a_no_go_even_when_the_baseline_is_no_better(make_report: Maker) -> None:
    report = make_report("+---" * 100)
    verdict = decide(report, report, GatePolicy(min_accuracy=0.5))
    assert verdict.decision == "NO-GO"
    assert verdict.paired is not None


def test_other_questions_are_inconclusive_and_say_what_to_do(make_report: Maker) -> None:
    verdict = decide(make_report("+" * 200), make_report("+" * 300), POLICY)
    assert verdict.decision == "INCONCLUSIVE"
    assert "evaluate the baseline on the candidate's set" in verdict.reason
    assert verdict.paired is None
    assert verdict.baseline_sha256 == "a" * 64


def test_another_judge_is_inconclusive(make_report: Maker) -> None:
    verdict = decide(make_report("+" * 300, judge="answer_correctness@0"), make_report("+" * 300), POLICY)
    assert verdict.decision == "INCONCLUSIVE"
    assert "judged by answer_correctness@0" in verdict.reason


def test_unscored_baseline_is_inconclusive(make_report: Maker) -> None:
    verdict = decide(make_report("+" * 200 + "?" * 100), make_report("+" * 300), POLICY)
    assert verdict.decision == "INCONCLUSIVE"
    assert "100 of the baseline's 300 items" in verdict.reason


def test_only_items_scored_in_both_are_compared(make_report: Maker) -> None:
    policy = GatePolicy(max_unscored=0.5)
    verdict = decide(make_report("+" * 290 + "?" * 10), make_report("?" * 10 + "+" * 290), policy)
    assert verdict.paired is not None
    assert verdict.paired.n == 280


def test_too_few_common_items_are_inconclusive(make_report: Maker) -> None:
    policy = GatePolicy(max_unscored=0.5)
    verdict = decide(make_report("+" * 20 + "?" * 20), make_report("?" * 20 + "+" * 20), policy)
    assert verdict.decision == "INCONCLUSIVE"
    assert verdict.reason.startswith("Only 0 items were scored for both models")


def test_repeated_prompts_do_not_pass_for_evidence(make_report: Maker) -> None:
    groups = [str(k // 10) for k in range(300)]
    lone, repeated = make_report("+" * 300), make_report("+" * 300, groups)
    assert decide(lone, lone, POLICY).decision == "GO"
    assert decide(repeated, repeated, POLICY).decision == "INCONCLUSIVE"


def test_order_of_the_items_does_not_matter(make_report: Maker) -> None:
    baseline, candidate = make_report("+-+" * 100), make_report("++-" * 100)
    turned = baseline.model_copy(update={"items": baseline.items[::-1]})
    assert decide(turned, candidate, POLICY).paired == decide(baseline, candidate, POLICY).paired


def test_verdict_names_the_documents_it_was_made_from(make_report: Maker) -> None:
    baseline, candidate = make_report("+" * 300), make_report("+" * 300, model_sha256="c" * 64)
    verdict = decide(baseline, candidate, POLICY)
    assert (verdict.candidate_sha256, verdict.baseline_sha256) == ("c" * 64, "a" * 64)
    assert (verdict.candidate_report_sha256, verdict.baseline_report_sha256) == (digest(candidate), digest(baseline))
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_detectable_difference_shrinks_with_more_items(make_report: Maker) -> None:
    few, many = (decide(make_report("+-" * k), make_report("+-" * k), POLICY) for k in (50, 5000))
    assert few.minimum_detectable_difference is not None
    assert many.minimum_detectable_difference is not None
    assert 0 < many.minimum_detectable_difference < few.minimum_detectable_difference


@given(st.lists(st.sampled_from(["++", "+-", "-+", "--"]), min_size=20, max_size=120))
def test_swapping_the_reports_mirrors_the_verdict(make_report: Maker, outcomes: list[str]) -> None:
    one, other = (make_report("".join(pair[k] for pair in outcomes)) for k in (0, 1))
    forth, back = decide(one, other, POLICY), decide(other, one, POLICY)
    assert forth.paired is not None
    assert back.paired is not None
    assert forth.paired.difference == -back.paired.difference
    assert forth.paired.interval.low == -back.paired.interval.high
    assert (forth.gained, forth.lost) == (back.lost, back.gained)
    assert {forth.decision, back.decision} != {"NO-GO"}


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0, 0.3))
def test_decision_is_what_the_interval_says(make_report: Maker, wins: int, losses: int, margin: float) -> None:
    baseline = make_report("-" * wins + "+" * losses + "+" * 40)
    candidate = make_report("+" * wins + "-" * losses + "+" * 40)
    verdict = decide(baseline, candidate, GatePolicy(margin=margin))
    assert verdict.paired is not None
    assert (verdict.decision == "GO") == (verdict.paired.interval.low > -margin)
    assert (verdict.decision == "NO-GO") == (verdict.paired.interval.high < -margin)
