r"""Where the final answer stands in a text.

In this order, and always the last of its kind: `#### x`, `\boxed{x}`, a line `A: x` (also `Answer: x`, `The answer is
x`, `Final answer: x`), else the whole text. What stands between <think> and </think> is never an answer.
"""

import re
from dataclasses import dataclass

_THINK_TAG = re.compile(r"(</?think>)", re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)")
_BRACES = re.compile(r"\\[{}]|\\f?boxed\s?\{|[{}]")
_LABEL = re.compile(
    r"""^[\s>*_\#"'-]*A[*_]*\s?:(?!:)
      | (?i:\b(?:answer|ans|option|choice)\b[*_]*(?:\s?[:=]|\s+(?:is|would\s+be)\b(?:\s?:)?))""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Extracted:
    """An answer and the rule that found it; `marked` is False for the whole text."""

    text: str
    rule: str

    @property
    def marked(self) -> bool:
        """Whether the author said which part of the text is the answer."""
        return self.rule != "whole text"


def final_answer(text: str) -> Extracted:
    """The final answer in a text that went through `text.canonical`; blank where the text gives none."""
    spoken = without_thinking(text)
    lines = spoken.splitlines()
    for rule, found in (("####", _hashed(lines)), ("\\boxed", _boxed(spoken)), ("answer line", _labelled(lines))):
        if found:
            return Extracted(_unwrapped(found), rule)
    return Extracted(spoken.strip(), "whole text")


def without_thinking(text: str) -> str:
    """The text outside <think>…</think>; a block left open has no end, one that was opened before has no start."""
    outside: list[str] = []
    thinking = False
    for piece in _THINK_TAG.split(text):
        match piece.casefold():
            case "<think>":
                thinking = True
            case "</think>":
                if not thinking:
                    outside.clear()
                thinking = False
            case _ if not thinking:
                outside.append(piece)
    return "\n".join(outside)


def _unwrapped(found: str) -> str:
    return _boxed(found) or _labelled([found]) or found


def _hashed(lines: list[str]) -> str | None:
    return _after_last(_HASHES, lines)


def _labelled(lines: list[str]) -> str | None:
    return _after_last(_LABEL, lines)


def _after_last(marker: re.Pattern[str], lines: list[str]) -> str | None:
    """What follows the last marker on its line or, where that is nothing, on the next line that says something."""
    following = ""
    for line in reversed(lines):
        ends = [match.end() for match in marker.finditer(line)]
        answer = (line[ends[-1] :].strip(" \t*_") or following) if ends else ""
        if answer:
            return answer
        following = line.strip() or following
    return None


def _boxed(text: str) -> str | None:
    r"""The contents of the last complete \boxed{…}, braces nested; None where there is none."""
    opened: list[tuple[int, bool]] = []
    found: tuple[int, int] | None = None
    for brace in _BRACES.finditer(text):
        if brace[0].endswith("{") and len(brace[0]) != 2:
            opened.append((brace.end(), brace[0] != "{"))
        elif brace[0] == "}" and opened:
            start, is_box = opened.pop()
            if is_box and (found is None or start > found[0]):
                found = (start, brace.start())
    return text[slice(*found)].strip() if found else None
