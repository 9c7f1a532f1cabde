r"""`answer_correctness@1`: is the final answer of a prediction the expected one?

1. Both sides are brought to one spelling (`text`), and the final answer is taken out of each (`extraction`): the last
   `#### x`, else the last `\boxed{x}`, else the last `A: x` line, else the whole text.
2. The kind of the expected answer decides the comparison: an option letter, yes or no, a time of day, a number
   (`quantities`), else short text.
3. Numbers are compared as exact fractions. Units, currencies and percent signs count only where both sides have one,
   so 50% equals 50 and never 0.5. A prediction that ends in a decimal with at least three digits may stand for a
   fraction that no decimal can (0.333 for 1/3) when it is that fraction correctly rounded.
4. A prediction that leaves the choice open (5 or 6) or the calculation unfinished (48 + 24) gives no number.

The complete rules, with examples, are in docs/judges.md. The text is only ever matched against patterns: nothing in it
is obeyed, and all patterns are linear in its length.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

from tunix_rt_evaluator.judges import forms
from tunix_rt_evaluator.judges.base import JudgeFailed, Judgement
from tunix_rt_evaluator.judges.extraction import Extracted, final_answer
from tunix_rt_evaluator.judges.quantities import Quantity, quantities, without_spaced_thousands
from tunix_rt_evaluator.judges.text import canonical, folded, plain, trimmed

MAX_ANSWER_CHARS = 2_000
MAX_LINES = 20
MIN_ROUNDED_PLACES = 3
_SHOWN_CHARS = 200

_LEAD_IN = re.compile(r"^(?:[a-z]\s?=|=|≈|~|about|approximately|approx\.?|roughly)\s?(?=[^=\s])", re.IGNORECASE)
_SPACED_SIGN = re.compile(r"^([+-])\s(?=[\d.$€£¥₹])")
_BULLET = re.compile(r"^(?:[*+•-]|\d{1,2}[.)])\s+(?=\S)")
_SENTENCE_END = re.compile(r"(?<=[^\s.;!?])[.;!?]+(?=\s|$)")
_OPEN_GAP = re.compile(
    r"(?:\b(?:or|and|to|x)|[+\u00d7÷^±/&]|\*\s|^\s?[-*]\s?|\s-\s)[\s($€£¥₹]*(?:[a-z]\s?=\s?)?$", re.IGNORECASE
)
_LIST_GAP = re.compile(r"\s?,\s?")
_UNFINISHED = re.compile(r"\s?(?:[=+\u00d7÷/^]|\*\s?=)\s*$")
_TO_LAST_DIGIT = re.compile(r".*\d")
_NEGATED = re.compile(r"(?:\bnot|n't|≠)\s?$", re.IGNORECASE)


def answer_correctness(prediction: str, expected: str) -> Judgement:
    """Judge one prediction; a blank one is wrong. Raises JudgeFailed when the expected answer is blank."""
    wanted = final_answer(canonical(expected)).text
    if not folded(wanted):
        raise JudgeFailed("the expected answer is blank: give the item an answer, or leave it out of the set")
    given = final_answer(canonical(prediction))
    if not given.text.strip():
        return Judgement(correct=False, extracted=None, reason="the prediction gives no final answer")
    if _same_text(given.text, wanted):
        return _judged(given.text, wanted, given.rule, correct=True)
    for compare in (_as_option, _as_polar, _as_time, _as_number):
        judgement = compare(given, trimmed(plain(wanted)))
        if judgement is not None:
            return judgement
    return _as_text(given, wanted)


def _judged(shown: str, wanted: str, rule: str, *, correct: bool) -> Judgement:
    shown = shown.strip()[:_SHOWN_CHARS]
    relation = "matches" if correct else "is not"
    return Judgement(correct, shown, f"{shown!r} (from {rule}) {relation} {wanted.strip()[:_SHOWN_CHARS]!r}")


def _clauses(given: Extracted) -> list[str]:
    """The short texts that may hold the answer: a marked answer itself, else the last line and then the first."""
    if given.marked:
        return [trimmed(plain(given.text[:MAX_ANSWER_CHARS]))]
    lines = [line for line in given.text.splitlines() if line.strip()]
    return [trimmed(plain(_BULLET.sub("", line.strip()[-MAX_ANSWER_CHARS:]))) for line in (lines[-1], lines[0])]


def _as_option(given: Extracted, wanted: str) -> Judgement | None:
    letter = forms.option(wanted)
    if letter is None:
        return None
    clauses = _clauses(given)
    found = forms.option(clauses[0]) or next(filter(None, map(forms.stated_option, clauses)), None)
    return _judged(found or clauses[0], wanted, given.rule, correct=found == letter)


def _as_polar(given: Extracted, wanted: str) -> Judgement | None:
    value = forms.polar(wanted) if " " not in wanted else None
    if value is None:
        return None
    said = [clause for clause in _clauses(given) if forms.polar(clause) is not None]
    if not said:
        return _judged(given.text, wanted, given.rule, correct=False)
    return _judged(said[0], wanted, given.rule, correct=forms.polar(said[0]) == value)


def _as_time(given: Extracted, wanted: str) -> Judgement | None:
    time = forms.time_of_day(wanted)
    if time is None:
        return None
    clause = _clauses(given)[0]
    whole = forms.time_of_day(clause, bare_hour=time.minute == 0)
    found = [whole] if whole else forms.times(clause)
    picked = found[0 if given.marked else -1] if found else None
    return _judged(clause, wanted, given.rule, correct=picked is not None and picked.same(time))


def _as_number(given: Extracted, wanted: str) -> Judgement | None:
    target = _sole_number(wanted)
    if target is None:
        return None
    text, found = _stated_number(given)
    if found is None or found.value is None:
        return _judged(text, wanted, given.rule, correct=False)
    shown = text[found.start : found.end]
    if not found.unit.fits(target.unit):
        return Judgement(
            correct=False, extracted=shown, reason=f"{shown!r} counts {found.unit}, the expected answer {target.unit}"
        )
    return _judged(shown, wanted, given.rule, correct=_equal(found, target))


def _as_text(given: Extracted, wanted: str) -> Judgement:
    part = _first_sentence(given.text) if given.marked else given.text.splitlines()[-1]
    return _judged(part, wanted, given.rule, correct=_same_text(part, wanted))


def _same_text(given: str, wanted: str) -> bool:
    """Equal when folded; a text that is longer by thousands of characters is not the short answer asked for."""
    return len(given) <= len(wanted) + MAX_ANSWER_CHARS and folded(given) == folded(wanted)


def _first_sentence(text: str) -> str:
    return _SENTENCE_END.split(text, maxsplit=1)[0]


def _sole_number(wanted: str) -> Quantity | None:
    """The expected number: a number with at most a few words of unit and nothing else."""
    text = _number_text(wanted)
    found = list(quantities(text)) if len(text) <= MAX_ANSWER_CHARS else []
    if len(found) != 1 or found[0].value is None or text[: found[0].start].strip("(["):
        return None
    return found[0] if len(text[found[0].end :].split()) <= 4 else None


def _number_text(text: str) -> str:
    return without_spaced_thousands(_SPACED_SIGN.sub(r"\1", _LEAD_IN.sub("", text)))


def _stated_number(given: Extracted) -> tuple[str, Quantity | None]:
    """The text searched and the number that the prediction settles on, None where it leaves it open."""
    for text in _number_clauses(given):
        found = list(quantities(text))
        if found:
            return text, _settled(text, found, leading=given.marked)
    return given.text, None


def _number_clauses(given: Extracted) -> Iterator[str]:
    """A marked answer's first sentence, then all of it; else the lines with digits, the last one first."""
    if given.marked:
        clause = _number_text(_clauses(given)[0])
        yield _first_sentence(clause)
        yield clause
        return
    lines = (line.strip() for line in reversed(given.text.splitlines()))
    ends = ((line, digits.end()) for line in lines if (digits := _TO_LAST_DIGIT.match(line)))
    for line, end in islice(ends, MAX_LINES):
        near = line[max(0, end - MAX_ANSWER_CHARS) : end + _SHOWN_CHARS]
        yield _number_text(trimmed(plain(_BULLET.sub("", near))))


def _settled(text: str, found: list[Quantity], *, leading: bool) -> Quantity | None:
    """The one number of a clause: what it opens with, else its last; None where another one stands beside it."""
    at = 0 if leading and _opens_with(text, found[0]) else len(found) - 1
    number = found[at]
    if _NEGATED.search(text[: number.start]):
        return None
    if at and _is_open(text[found[at - 1].end : number.start]):
        return None
    if at + 1 == len(found):
        return None if _UNFINISHED.match(text, number.end) else number
    after = text[number.end : found[at + 1].start]
    return None if _is_open(after) or _LIST_GAP.fullmatch(after) else number


def _opens_with(text: str, number: Quantity) -> bool:
    """Whether a clause begins with its answer, as `72 because …` and `5 = 2 + 3` do and `2 apples + 3 = 5` does not."""
    if text[: number.start].strip("(["):
        return False
    return "=" not in text or text[number.end :].lstrip().startswith("=")


def _is_open(gap: str) -> bool:
    """Whether two numbers with this between them are alternatives, a list or a calculation rather than one answer."""
    return not gap.strip() or _OPEN_GAP.search(gap) is not None


def _equal(found: Quantity, target: Quantity) -> bool:
    if found.value is None or target.value is None:
        return False
    return found.value == target.value or _is_rounding(found, target.value) or _is_rounding(target, found.value)


def _is_rounding(shown: Quantity, exact: Fraction) -> bool:
    """Whether a decimal is a fraction without finite decimals, correctly rounded to three or more telling digits."""
    if shown.value is None or shown.places is None or _terminates(exact):
        return False
    telling = len(str(abs(shown.value.numerator * 10**shown.places // shown.value.denominator)))
    return min(shown.places, telling) >= MIN_ROUNDED_PLACES and round(exact, shown.places) == shown.value


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
