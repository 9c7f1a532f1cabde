"""From questions, answers and a judge to a report. Pure: where the model and the rows come from is the job's affair."""

from collections.abc import Sequence

from tunix_rt_common.datasets import DatasetRow
from tunix_rt_common.reports import EvalReport, ItemResult, ServedModel, eval_set_sha256
from tunix_rt_common.specs import EvalSpec
from tunix_rt_evaluator.generation import Answer
from tunix_rt_evaluator.judges import JUDGES, Judge, JudgeFailed
from tunix_rt_evaluator.statistics import score, slices


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
