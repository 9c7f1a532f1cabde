"""From questions, answers and a judge to a report. Pure: where the model and the rows come from is the job's affair."""

import math
from collections.abc import Sequence
from typing import Any

from tunix_rt_common.datasets import DatasetManifest, DatasetRow
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.reports import EvalReport, ItemResult, ServedModel, eval_set_sha256
from tunix_rt_common.specs import EvalSpec
from tunix_rt_evaluator.generation import Answer, Reply
from tunix_rt_evaluator.judges import JUDGES, Judge, JudgeFailed
from tunix_rt_evaluator.statistics import score, slices

SAME_FLOAT = 1e-9
"""Relative: mathematical libraries differ in the last bits."""


def asked_rows(manifest: DatasetManifest, rows: Sequence[DatasetRow], spec: EvalSpec) -> Sequence[DatasetRow]:
    """The rows of the split that a model is asked; `UnusableData` when there are none."""
    if not rows:
        version = f"@{manifest.version}" if manifest.version else ""
        raise UnusableData(
            f"split {spec.split!r} of {manifest.name}{version} has no rows: build the dataset with a larger "
            f"{spec.split} fraction, or evaluate on another split",
            field="evaluate.split",
        )
    return rows[: spec.limit]


def build_report(
    rows: Sequence[DatasetRow],
    answers: Sequence[Answer],
    spec: EvalSpec,
    *,
    model_sha256: str,
    dataset_sha256: str,
    endpoint: ServedModel | None,
) -> EvalReport:
    """Judge each answer; the report with every prediction, its verdict, and the scores."""
    judge = JUDGES[spec.judge]
    items = tuple(judge_item(row, answer, judge) for row, answer in zip(rows, answers, strict=True))
    return EvalReport(
        model_sha256=model_sha256,
        dataset_sha256=dataset_sha256,
        split=spec.split,
        judge=spec.judge,
        sampling=spec.sampling,
        items=items,
        overall=score(items),
        slices=slices(items),
        eval_set_sha256=eval_set_sha256(items),
        endpoint=endpoint,
    )


def judge_again(
    report: EvalReport, rows: Sequence[DatasetRow], spec: EvalSpec, *, model_sha256: str, dataset_sha256: str
) -> EvalReport:
    """Build the report anew from the answers in one that was made elsewhere, and our own rows, judge and statistics.

    Raises:
        UnusableData: the two differ, so it was tampered with or made by other rules; the message names the field.
    """
    answers = [_answer(item) for item in report.items]
    if [item.item_id for item in report.items] != [row.row_id for row in rows]:
        raise UnusableData(
            f"the report's items are not the {len(rows)} rows of split {spec.split!r} that the spec asks for: "
            "evaluate the bundle again",
            field="items",
        )
    made = build_report(rows, answers, spec, model_sha256=model_sha256, dataset_sha256=dataset_sha256, endpoint=None)
    if field := _first_difference(made.model_dump(), report.model_dump()):
        raise UnusableData(
            f"{field} of the report is not what judging its answers gives: it was changed, or made by another version; "
            "evaluate the bundle again",
            field=field,
        )
    return made


def judge_item(row: DatasetRow, answer: Answer, judge: Judge) -> ItemResult:
    """One item's result. Where generation or the judge failed it is unscored, which is not the same as wrong."""
    meta = row.meta or {}
    asked = {
        "item_id": row.row_id,
        "prompt": row.prompt,
        "expected": row.final_answer,
        "group": row.group,
        **{
            key: meta.get(key) if isinstance(meta.get(key), str) else None
            for key in ("section", "category", "difficulty")
        },
    }
    if isinstance(answer, str):
        return ItemResult(**asked, prediction=None, outcome="unscored", extracted=None, reason=answer)
    said = {"prediction": answer.text, "finish_reason": answer.finish_reason}
    try:
        judgement = judge(answer.text, row.final_answer)
    except JudgeFailed as error:
        return ItemResult(**asked, **said, outcome="unscored", extracted=None, reason=str(error))
    return ItemResult(
        **asked,
        **said,
        outcome="correct" if judgement.correct else "wrong",
        extracted=judgement.extracted,
        reason=judgement.reason,
    )


def _answer(item: ItemResult) -> Answer:
    """What the model said to an item, as far as the judge looks at it."""
    if item.prediction is None:
        return item.reason
    return Reply(item.prediction, "length" if item.finish_reason == "length" else "stop")


def _first_difference(one: Any, other: Any, path: str = "") -> str | None:
    """Where two documents begin to differ; None where they do not."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(one[key], other[key], f"{path}.{key}") for key in one]
    elif isinstance(one, tuple | list) and isinstance(other, tuple | list) and len(one) == len(other):
        pairs = [(*pair, f"{path}.{index}") for index, pair in enumerate(zip(one, other, strict=True))]
    else:
        floats = isinstance(one, float) and isinstance(other, float)
        same = math.isclose(one, other, rel_tol=SAME_FLOAT) if floats else one == other
        return None if same else path.removeprefix(".")
    return next(filter(None, (_first_difference(*pair) for pair in pairs)), None)
