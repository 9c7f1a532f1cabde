"""`python -m tests.faults.suite.lightevaluate`: an evaluation attempt without a model; gate and documents are real.

Answers follow from the model's digest alone, so that every attempt stores the very same report.
"""

import hashlib
import sys
import time
from typing import Any

from tunix_rt_common.child import Child, ToldToLeave, run_child
from tunix_rt_common.db.models import RunRecord
from tunix_rt_common.reports import EvalReport, ItemResult, eval_set_sha256
from tunix_rt_common.specs import RunSpec
from tunix_rt_evaluator.gate import decide
from tunix_rt_evaluator.statistics import score, slices

ITEMS = 30
ITEM_S = 0.01


def evaluate(child: Child) -> dict[str, Any]:
    """Answer, judge and gate."""
    with child.database.reading() as session:
        run = session.get_one(RunRecord, child.claim.run_id)
        spec, pins = RunSpec.model_validate(run.spec), run.pins
    for item in range(ITEMS):
        time.sleep(ITEM_S)
        child.progress(item + 1, ITEMS)
        if child.leaving.is_set():
            raise ToldToLeave
    report = report_on(child.claim.payload["manifest_sha256"], pins["eval_dataset"]["dataset_sha256"], spec)
    pin = pins["baseline"]
    baseline = child.store.get_document(EvalReport, pin["report_sha256"]) if pin and pin["report_sha256"] else None
    return {
        "report_sha256": child.store.put_document(report),
        "verdict_sha256": child.store.put_document(decide(baseline, report, spec.gate)),
    }


def report_on(model_sha256: str, dataset_sha256: str, spec: RunSpec) -> EvalReport:
    """What this model is found to be: item n is right where bit n of its digest is set."""
    assert spec.evaluate
    bits = int(model_sha256, 16)
    items = tuple(_item(number, right=bool(bits >> number & 1)) for number in range(ITEMS))
    return EvalReport(
        model_sha256=model_sha256,
        dataset_sha256=dataset_sha256,
        split=spec.evaluate.split,
        judge=spec.evaluate.judge,
        sampling=spec.evaluate.sampling,
        items=items,
        overall=score(items),
        slices=slices(items),
        eval_set_sha256=eval_set_sha256(items),
    )


def _item(number: int, *, right: bool) -> ItemResult:
    return ItemResult(
        item_id=str(number),
        prompt=f"{number} + 0",
        expected=str(number),
        prediction=str(number if right else -1),
        outcome="correct" if right else "wrong",
        extracted=str(number if right else -1),
        reason="the digest says so",
        group=hashlib.sha256(str(number).encode()).hexdigest(),
    )


if __name__ == "__main__":
    sys.exit(run_child(evaluate))
