"""The kinds of answer that are not numbers or free text: times of day, option letters, yes and no.

Each reader takes a short text that went through `canonical` and `plain`, and returns None where the text is not that.
"""

import re
from dataclasses import dataclass

_TIME = re.compile(
    r"(?<![\d:.])(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?"
    r"(?:\s?(?P<half>[ap])\.?m\b\.?)?(?![\d:]|\.\d)",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?:option|choice|answer)?\s?(?:\((?P<a>[a-j])\)|\[(?P<b>[a-j])\]|(?P<c>[a-j]))[).:]?", re.IGNORECASE
)
_OPTION_WITH_TEXT = re.compile(
    r"(?:(?:option|choice)\s)?(?:\((?P<a>[A-Ja-j])\)|(?P<b>[A-Ja-j])(?:\)|[.:](?=\s))|(?P<c>[A-J])\s-\s)(?P<rest>.*)",
    re.DOTALL,
)
_OPTION_NAMED = re.compile(
    r"(?i:\b(?:option|choice|answer)\s)\(?(?P<a>[A-J])\b|\((?P<b>[A-J])\)"
    r"|\b(?P<c>[A-J])(?=\sis\s(?:the\s)?(?:correct|right|best|answer)\b)"
)
_ALTERNATIVE = re.compile(r"\s*(?:,|/|&|(?:or|and)\b)", re.IGNORECASE)
_POLAR = re.compile(
    r"(?P<word>yes|no|true|false)\b(?!\s*[,/]?\s*(?:or|and)\b)"
    r"(?=\s*(?:[^\w\s]|$)|\s(?:because|since|it|he|she|they|we|you|i|that|this|there)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class TimeOfDay:
    """A clock time; `half` is "a", "p", or None where the text names neither a.m. nor p.m."""

    hour: int
    minute: int
    second: int
    half: str | None

    def same(self, other: "TimeOfDay") -> bool:
        """Whether both are one time; a half of the day that is left out is not held against an answer."""
        if self.half is None or other.half is None:
            faces = {self._face(), self._on_24_hours()} & {other._face(), other._on_24_hours()}
            return bool(faces)
        return self._on_24_hours() == other._on_24_hours()

    def _face(self) -> tuple[int, int, int]:
        return self.hour, self.minute, self.second

    def _on_24_hours(self) -> tuple[int, int, int]:
        hour = self.hour if self.half is None else self.hour % 12 + (12 if self.half == "p" else 0)
        return hour, self.minute, self.second


def times(text: str, *, bare_hour: bool = False) -> list[TimeOfDay]:
    """Every time of day in the text; a lone number counts only with `bare_hour`."""
    found = []
    for match in _TIME.finditer(text):
        half = match["half"].casefold() if match["half"] else None
        if int(match["hour"]) < 25 and (match["minute"] or half or bare_hour):
            found.append(TimeOfDay(int(match["hour"]), int(match["minute"] or 0), int(match["second"] or 0), half))
    return found


def time_of_day(text: str, *, bare_hour: bool = False) -> TimeOfDay | None:
    """The time that is the whole text."""
    if not (match := _TIME.fullmatch(text)):
        return None
    found = times(match[0], bare_hour=bare_hour)
    return found[0] if found else None


def option(text: str) -> str | None:
    """The letter (A to J) of a text that is one option: C, (C), C., option C."""
    match = _OPTION.fullmatch(text)
    return _letter(match) if match else None


def stated_option(text: str) -> str | None:
    """The letter that a longer text settles on: `(C) Paris`, `C: Paris`, `option C is right`; None for `B or C`."""
    whole = _OPTION_WITH_TEXT.match(text)
    if whole:
        return None if _ALTERNATIVE.match(whole["rest"]) else _letter(whole)
    named = {_letter(match) for match in _OPTION_NAMED.finditer(text)}
    return named.pop() if len(named) == 1 else None


def _letter(match: re.Match[str]) -> str:
    return next(letter for name, letter in match.groupdict().items() if letter and name != "rest").upper()


def polar(text: str) -> bool | None:
    """True for a text that begins with yes or true as a word of its own, False for no or false."""
    match = _POLAR.match(text)
    return match["word"].casefold() in ("yes", "true") if match else None
