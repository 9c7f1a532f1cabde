"""A report that came with a bundle is built anew: what its answers do not come to is refused by name."""

import pytest

from tunix_rt_common.datasets import row_from_trace
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.reports import eval_set_sha256
from tunix_rt_common.specs import EvalSpec
from tunix_rt_common.traces import Trace
from tunix_rt_evaluator.evaluation import build_report, judge_again
from tunix_rt_evaluator.generation import Reply

SPEC = EvalSpec()
MODEL, DATA = "a" * 64, "d" * 64


def row(number):
    record = {
        "prompt": f"{number}+1=",
        "steps": [{"i": 0, "type": "sum", "content": "one up"}],
        "final_answer": str(number + 1),
        "meta": {"category": "sums"},
    }
    return row_from_trace(Trace.model_validate(record))


ROWS = [row(number) for number in range(6)]
ANSWERS = [
    Reply("1", "stop"),
    Reply("3", "length"),
    "the prompt is too long",
    *(Reply(str(number + 1), "stop") for number in range(3, 6)),
]


def made():
    return build_report(ROWS, ANSWERS, SPEC, model_sha256=MODEL, dataset_sha256=DATA, endpoint=None)


def again(report, rows=ROWS):
    return judge_again(report, rows, SPEC, model_sha256=MODEL, dataset_sha256=DATA)


def with_item(report, index, **changes):
    items = list(report.items)
    items[index] = items[index].model_copy(update=changes)
    return report.model_copy(update={"items": tuple(items), "eval_set_sha256": eval_set_sha256(items)})


def with_overall(report, **changes):
    return report.model_copy(update={"overall": report.overall.model_copy(update=changes)})


def test_honest_report_is_built_anew_to_the_letter():
    assert again(made()) == made()


def test_last_bits_of_an_interval_are_forgiven():
    report = made()
    interval = report.overall.interval
    near = interval.model_copy(update={"low": interval.low * (1 + 1e-13)})
    assert again(with_overall(report, interval=near)) == report


@pytest.mark.parametrize(
    ("forge", "field"),
    [
        (lambda r: r.model_copy(update={"overall": r.overall.model_copy(update={"correct": 6})}), "overall.correct"),
        (
            lambda r: r.model_copy(update={"overall": r.overall.model_copy(update={"accuracy": 0.9})}),
            "overall.accuracy",
        ),
        (lambda r: r.model_copy(update={"slices": {}}), "slices"),
        (lambda r: r.model_copy(update={"model_sha256": "b" * 64}), "model_sha256"),
        (lambda r: r.model_copy(update={"dataset_sha256": "b" * 64}), "dataset_sha256"),
        (lambda r: r.model_copy(update={"split": "train"}), "split"),
        (lambda r: with_item(r, 1, outcome="correct"), "items.1.outcome"),
        (lambda r: with_item(r, 1, expected="3"), "items.1.expected"),
        (lambda r: with_item(r, 0, prompt="easier"), "items.0.prompt"),
        (lambda r: with_item(r, 0, group="f" * 64), "items.0.group"),
        (lambda r: with_item(r, 1, finish_reason="tired"), "items.1.finish_reason"),
    ],
)
def test_forged_report_is_refused_by_the_field_that_gives_it_away(forge, field):
    with pytest.raises(UnusableData, match="is not what judging its answers gives") as error:
        again(forge(made()))
    assert error.value.field == field


def test_report_on_other_or_fewer_questions_is_refused():
    report = made()
    for rows in (ROWS[:-1], ROWS[::-1], [*ROWS[:-1], row(99)]):
        with pytest.raises(UnusableData, match="items are not the"):
            again(report, rows)
