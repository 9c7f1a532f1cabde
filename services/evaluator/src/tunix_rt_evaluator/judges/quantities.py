"""Numbers as people and models write them, read into exact fractions.

Read: 1,234.50  .5  -3  1e3  6.02 x 10^23  2^10  3/4  3 1/2  $5  -$5  $-5  50%  1.5 million  5k  72 clips  5 km/h.
Not read, on purpose: 1,5 (a decimal comma or a list?), 5x and 2π (not numbers), dates, times, ratios and ranges.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from tunix_rt_evaluator.judges.units import Unit, unit_of

MAX_DIGITS = 400
_MAX_EXPONENT = 400

_LITERAL = r"(?:\d++(?:,\d++)*+(?:\.\d++)*+|\.\d++)"
_TOKEN = re.compile(
    rf"""
    (?<![^\W_])(?<!\^)
    (?:(?<![)\]])(?P<sign>[+-]))?
    (?:(?P<currency>[$€£¥₹¢]|us\$|usd|eur|gbp|inr|rs\.?)\s?)?
    (?P<inner>[+-])?
    (?P<number>{_LITERAL})
    (?:
        e(?P<exponent>[+-]?\d++)(?![^\W_])
      | \s?[\u00d7x*]\s?10\s?\^\s?(?P<ten>\(?[+-]?\d++\)?)
      | \s?\^\s?(?P<power>\(?[+-]?\d++\)?)
      | \s?/\s?(?P<below>{_LITERAL})
      | \s(?:and\s)?(?P<part>\d++)\s?/\s?(?P<whole>\d++)
    )?+
    (?P<more>(?::|\s?/\s?|-)\d[\d:/.-]*+)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_VALID = re.compile(r"(?:\d+|\d{1,3}(?:,\d{3})+)?(?:\.\d+)?")
_SCALE = re.compile(r"\s?(?P<word>hundred|thousand|million|billion|trillion)\b|(?P<letter>[kK]|M|B|bn)(?![^\W_])")
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "k": 10**3,
    "million": 10**6,
    "m": 10**6,
    "billion": 10**9,
    "b": 10**9,
    "bn": 10**9,
    "trillion": 10**12,
}
_SYMBOLIC_AFTER = re.compile(r"\s?(?:\\[a-z]|[π√∞^!](?!\s|$)|π|∞|sqrt)|[abinxyz](?![^\W_])")
_SYMBOLIC_BEFORE = re.compile(r"(?:√|sqrt\s?[({]?|\\pi|π|\^[({]?|\blog|\bln)\s?$", re.IGNORECASE)
_SPACED_THOUSANDS = re.compile(r"^[+-]?[$€£¥₹]?\s?\d{1,3}(?: \d{3})+(?![\d/]|\s?/| \d)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its unit, and where it stands in its text.

    `value` is None where the token looks like a number and is none (1,5 or 12:30). `places` counts the decimals
    shown, None for anything but a plain decimal.
    """

    value: Fraction | None
    places: int | None
    unit: Unit
    start: int
    end: int


def quantities(text: str) -> Iterator[Quantity]:
    """Every number-like token of a text that went through `canonical` and `plain`, from left to right."""
    for match in _TOKEN.finditer(text):
        tail = text[match.end() : match.end() + 200]
        scale = _SCALE.match(tail)
        value = None if _is_symbolic(text, match, tail, scaled=scale is not None) else _value(match)
        if scale and value is not None:
            value *= _SCALES[scale[0].strip().casefold()]
        end = match.end() + (scale.end() if scale else 0)
        plain_decimal = scale is None and match.end("number") == match.end()
        places = len(match["number"].partition(".")[2]) if plain_decimal else None
        yield Quantity(value, places, unit_of(text[end : end + 200], match["currency"]), match.start(), end)


def without_spaced_thousands(text: str) -> str:
    """The text with the number that it opens with joined: 10 000 becomes 10000."""
    return _SPACED_THOUSANDS.sub(lambda number: number[0].replace(" ", ""), text)


def _is_symbolic(text: str, match: re.Match[str], tail: str, *, scaled: bool) -> bool:
    if match["more"] or _SYMBOLIC_BEFORE.search(text[max(0, match.start() - 8) : match.start()]):
        return True
    return not scaled and _SYMBOLIC_AFTER.match(tail) is not None


def _value(match: re.Match[str]) -> Fraction | None:
    number = _literal(match["number"])
    if number is None:
        return None
    value = _with_suffix(number, match)
    negative = (match["sign"] == "-") != (match["inner"] == "-")
    return -value if value is not None and negative else value


def _with_suffix(number: Fraction, match: re.Match[str]) -> Fraction | None:
    if match["exponent"] or match["ten"]:
        return _powered(Fraction(10), match["exponent"] or match["ten"], times=number)
    if match["power"]:
        return _powered(number, match["power"])
    if match["below"]:
        below = _literal(match["below"])
        return number / below if below else None
    if match["part"]:
        part, whole = _literal(match["part"]), _literal(match["whole"])
        return number + part / whole if part is not None and whole else None
    return number


def _powered(base: Fraction, exponent: str, *, times: Fraction = Fraction(1)) -> Fraction | None:
    digits = exponent.strip("()")
    if len(digits) > 4 or abs(int(digits)) > _MAX_EXPONENT or (base == 0 and int(digits) < 0):
        return None
    if base.numerator.bit_length() + base.denominator.bit_length() > 200:
        return None
    return times * base ** int(digits)


def _literal(text: str) -> Fraction | None:
    if len(text) > MAX_DIGITS or not _VALID.fullmatch(text):
        return None
    return Fraction(text.replace(",", ""))
