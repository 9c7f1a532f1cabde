"""One spelling for what can be written in many: Unicode, LaTeX, Markdown, case, outer punctuation.

Every function is linear in the length of its text.
"""

import re
import unicodedata

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_LOWERED = str.maketrans(_SUPERSCRIPTS, "0123456789-+")
_MIXED_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_FOREIGN_DIGIT = re.compile(r"(?![0-9])\d")
_LOOKALIKES = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63", "-")
    | dict.fromkeys("\u2044\u2215", "/")
    | dict.fromkeys("\u2018\u2019\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u2033\u00ab\u00bb", '"')
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\ufe0f")
)

_LATEX = (
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,;:! ]|\\q?quad\b|\\(?:left|right|displaystyle)\b|\\[()\[\]]|\$\$"), ""),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?"), "°"),
    (re.compile(r"\^\{([^{}]*)\}"), r"^\1"),
    (re.compile(r"(?<=\d)\s?\\[dt]?frac(?=[\s{\d])"), r" \\frac"),
    (re.compile(r"\\[dt]?frac\s?\{\s?([\d.,+-]+)\s?\}\s?\{\s?([\d.,]+)\s?\}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)"), r"\1/\2"),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "\u00d7"),
    (re.compile(r"\\(?:approx|simeq)(?![a-zA-Z])"), "≈"),
    (re.compile(r"\\pi(?![a-zA-Z])"), "π"),
    (re.compile(r"\\sqrt\s?\{(\w+)\}"), r"√\1"),
    (re.compile(r"\$([^$\n]{1,200})\$(?!\d)"), r"\1"),
)
_MARKDOWN = (
    (re.compile(r"(?<=\d)\*\*(?=\d)"), "^"),
    (re.compile(r"\*\*|__|`"), ""),
    (re.compile(r"(?<![\w*\s])\*(?=[^\s*])|(?<=[^\s*\d])\*(?![\w*\s])"), ""),
)
_SPACES = re.compile(r"[^\S\n]+")
_TIGHT = re.compile(r"\s*([,;:()\[\]{}/=+])\s*")
_ARTICLE = re.compile(r"^(?:the|an?)\s+(?=\S)")
_KEPT_BEFORE = frozenset("+-([{\\√~≈=<>$€£¥₹¢@#&°%^∞π|∅")
_KEPT_AFTER = frozenset("+=\u00d7÷/)]}%°$€£¥₹¢#∞π|∅")


def canonical(text: str) -> str:
    """NFKC with one dash, one quote, ASCII digits, no invisible characters; 2³ becomes 2^3 and 3½ becomes 3 1/2."""
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^" + run[0].translate(_LOWERED), text)
    text = unicodedata.normalize("NFKC", _MIXED_VULGAR.sub(" ", text))
    return _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.digit(digit[0])), text.translate(_LOOKALIKES))


def plain(text: str) -> str:
    r"""The text without LaTeX and Markdown: \frac{3}{4} becomes 3/4, **42** becomes 42; runs of blanks become one."""
    for pattern, replacement in (*_LATEX, *_MARKDOWN):
        text = pattern.sub(replacement, text)
    return _SPACES.sub(" ", text)


def trimmed(text: str) -> str:
    """The text without outer white space, quotes, emphasis, emoji and full stops; itself where nothing else is left."""
    start, end = 0, len(text)
    while start < end and not _opens(text, start):
        start += 1
    while end > start and not (text[end - 1].isalnum() or text[end - 1] in _KEPT_AFTER):
        end -= 1
    return text[start:end] or text.strip()


def _opens(text: str, at: int) -> bool:
    decimal_point = text[at] == "." and text[at + 1 : at + 2].isdigit()
    return text[at].isalnum() or text[at] in _KEPT_BEFORE or decimal_point


def folded(text: str) -> str:
    """The form in which two short texts are compared: plain, trimmed, case-folded, without a leading article."""
    words = " ".join(trimmed(plain(text)).casefold().split())
    return _ARTICLE.sub("", _TIGHT.sub(r"\1", words))
