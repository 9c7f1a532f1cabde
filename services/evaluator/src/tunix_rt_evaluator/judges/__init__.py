"""Judges: pure functions that say whether a prediction is right, in a table keyed by name and version.

A change in what a judge accepts is a new version with a new name: reports made by different judges are not compared.
"""

from collections.abc import Mapping
from types import MappingProxyType

from tunix_rt_evaluator.judges.answer_correctness import answer_correctness
from tunix_rt_evaluator.judges.base import Judge, JudgeFailed, Judgement

JUDGES: Mapping[str, Judge] = MappingProxyType({"answer_correctness@1": answer_correctness})

__all__ = ["JUDGES", "Judge", "JudgeFailed", "Judgement"]
