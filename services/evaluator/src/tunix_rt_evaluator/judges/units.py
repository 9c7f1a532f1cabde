"""Units after (or a currency before) a number, reduced to what can be compared.

Nothing is converted: 5 km and 5,000 m are different answers, and so are 50 cents and $0.50.
"""

import re
from dataclasses import dataclass

_ALIASES = """
    %: percent percentage pct
    usd: $ us$ dollar dollars buck bucks
    eur: € euro euros
    gbp: £ quid
    yen: ¥ jpy
    inr: ₹ rs rs. rupee rupees
    cent: ¢ cents
    °: degree degrees deg
    °c: celsius
    °f: fahrenheit
    mm: millimeter millimeters millimetre millimetres
    cm: centimeter centimeters centimetre centimetres
    m: meter meters metre metres
    km: kilometer kilometers kilometre kilometres kms
    inch: in inches
    foot: ft feet
    yard: yd yds yards
    mile: mi miles
    mg: milligram milligrams
    g: gram grams
    kg: kilogram kilograms kilo kilos kgs
    lb: lbs
    lb|gbp: pound pounds
    oz: ounce ounces
    ml: milliliter milliliters millilitre millilitres
    l: liter liters litre litres
    gallon: gal gallons
    s: sec secs second seconds
    min: mins minute minutes
    h: hr hrs hour hours
    day: days
    week: wk wks weeks
    month: mo months
    year: yr yrs years
    mile/h: mph
    km/h: kmh kph
"""
_KNOWN = {
    alias: unit
    for unit, aliases in (line.strip().split(": ") for line in _ALIASES.strip().splitlines())
    for alias in (unit, *aliases.split())
}
_FILLER_WORDS = """
    a about after again ago all alone also altogether an and any are as at away because before between but by came
    can combined each either every extra for from had has have he her his if in into is it its just later left less
    long making many more much new of on only or out over overall own per remaining she since so some than that the
    their them then there these they this to together total under until up was we were when where which while who
    will with would you your
"""
_FILLERS = frozenset(_FILLER_WORDS.split())
_RATE = re.compile(r"\s?/\s?|\s+(?:per|an?|each)\s+")
_WORD = re.compile(r"\s?(?P<word>[^\W\d_]+\.?|[%°$€£¥₹¢]\s?[cf]?\b|[%°$€£¥₹¢])(?:\s?\^\s?(?P<power>[23]))?")
_TEMPERATURE = re.compile(r"(?:°|degrees?)\s?(?=(?:celsius|fahrenheit)\b)")
_POWERS = {"square": "^2", "sq": "^2", "sq.": "^2", "cubic": "^3", "cu": "^3"}
_MAX_WORDS = 4


@dataclass(frozen=True, slots=True)
class Unit:
    """A numerator and, for a rate, a denominator; each one known unit, or the words that name the counted things."""

    numerator: frozenset[str] = frozenset()
    denominator: frozenset[str] = frozenset()

    def fits(self, other: "Unit") -> bool:
        """Whether no part that both name differs: a unit left out is not held against an answer."""
        return _fit(self.numerator, other.numerator) and _fit(self.denominator, other.denominator)

    def __str__(self) -> str:
        return "/".join(" ".join(sorted(part)) for part in (self.numerator, self.denominator) if part)


def _fit(one: frozenset[str], other: frozenset[str]) -> bool:
    return not one or not other or bool(one & other)


def unit_of(tail: str, currency: str | None = None) -> Unit:
    """The unit in the words that follow a number, or the currency before it, and the rate that may follow either."""
    words = _TEMPERATURE.sub("", tail[:200].casefold())
    above, *below = _RATE.split(words, maxsplit=1)
    numerator = _named(_KNOWN.get(currency.casefold(), currency.casefold()) if currency else above)
    denominator = _named(below[0]) if below and (not above.strip() or numerator) else frozenset()
    joined = next(iter(numerator), "") if len(numerator) == 1 else ""
    if "/" in joined:
        top, bottom = joined.split("/")
        return Unit(frozenset({top}), frozenset({bottom}))
    return Unit(numerator, denominator)


def _named(words: str) -> frozenset[str]:
    """The known unit among the leading words, else their stems; nothing where the first of them is a filler."""
    stems: list[str] = []
    power = ""
    for word, exponent in _leading(words):
        if word in _POWERS:
            power = _POWERS[word]
            continue
        known = _KNOWN.get(word) or _KNOWN.get(word.rstrip("."))
        if known and (len(word) > 2 or not stems):
            return frozenset(unit + (f"^{exponent}" if exponent else power) for unit in known.split("|"))
        stems.append(_stem(word))
    return frozenset(stems)


def _leading(words: str) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    position = 0
    while len(found) < _MAX_WORDS and (match := _WORD.match(words, position)):
        word = match["word"].replace(" ", "")
        if word in _FILLERS and not (word == "in" and not words[match.end() :].strip()):
            break
        found.append((word, match["power"]))
        position = match.end()
    return found


def _stem(word: str) -> str:
    word = word.rstrip(".")
    if word.endswith(("ches", "shes", "xes", "sses", "zes")):
        return word[:-2]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
