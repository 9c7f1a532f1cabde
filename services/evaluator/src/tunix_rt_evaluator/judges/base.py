"""What every judge takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass

from tunix_rt_common.errors import TunixError


@dataclass(frozen=True, slots=True)
class Judgement:
    """A judge's word on one prediction: right or not, the answer it found in the text, and why."""

    correct: bool
    extracted: str | None
    reason: str


Judge = Callable[[str, str], Judgement]
"""`judge(prediction, expected)`; pure, deterministic; raises JudgeFailed when it cannot decide."""


class JudgeFailed(TunixError):
    """The judge cannot decide: the item is unscored, which is not the same as wrong."""
