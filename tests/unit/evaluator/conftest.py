import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tunix_rt_common.reports import EvalReport, ItemResult, eval_set_sha256
from tunix_rt_common.specs import SamplingSpec
from tunix_rt_evaluator.statistics import score, slices

ROOT = Path(__file__).parents[3]
OUTCOMES = {"+": "correct", "-": "wrong", "?": "unscored"}


@pytest.fixture(scope="session")
def judged_rows() -> Path:
    return ROOT / "tests" / "data" / "judges"


@pytest.fixture(scope="session")
def gsm8k() -> Path:
    folder = Path(os.environ.get("TUNIX_RT_SHARED_DATA", ROOT.parent / "shared" / "data")) / "gsm8k"
    if not folder.is_dir():
        pytest.skip(f"needs GSM8K in {folder}; TUNIX_RT_SHARED_DATA names another folder")
    return folder


def items_of(marks: str, groups: Sequence[str] | None = None) -> tuple[ItemResult, ...]:
    """One item per mark: + correct, - wrong, ? unscored; each its own prompt unless `groups` says otherwise."""
    return tuple(
        ItemResult(
            item_id=f"item-{number}",
            prompt=f"question {number}",
            expected="42",
            prediction=None if mark == "?" else "42",
            outcome=OUTCOMES[mark],
            extracted=None,
            reason="as the test says",
            group=hashlib.sha256((groups[number] if groups else str(number)).encode()).hexdigest(),
        )
        for number, mark in enumerate(marks)
    )


def report_of(marks: str, groups: Sequence[str] | None = None, **changes: object) -> EvalReport:
    items = items_of(marks, groups)
    report = EvalReport(
        model_sha256="a" * 64,
        dataset_sha256="d" * 64,
        split="test",
        judge="answer_correctness@1",
        sampling=SamplingSpec(),
        items=items,
        overall=score(items),
        slices=slices(items),
        eval_set_sha256=eval_set_sha256(items),
    )
    return report.model_copy(update=changes)


@pytest.fixture(scope="session")
def make_items() -> Callable[..., tuple[ItemResult, ...]]:
    return items_of


@pytest.fixture(scope="session")
def make_report() -> Callable[..., EvalReport]:
    return report_of
