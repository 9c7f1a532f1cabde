"""JSON objects, decoded strictly: what databases or other JSON readers would refuse or change is refused here."""

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from tunix_rt_common.errors import InvalidInput

MAX_DEPTH = 64

_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels: flatten it"


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the one JSON object that the bytes hold.

    Raises:
        InvalidInput: they hold something else; the message is one line and never repeats them at length.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"byte {error.start + 1} is not UTF-8: save or send it as UTF-8") from error
    value = _parsed(text)
    if not isinstance(value, dict):
        raise InvalidInput("not an object: write one {…}, and no list around it")
    if _is_deeper(value, MAX_DEPTH):
        raise InvalidInput(_TOO_DEEP)
    _check_escapes(text, value)
    return value


def _parsed(text: str) -> object:
    try:
        return json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno} column {error.colno}"
        raise InvalidInput(f"not JSON at {place} ({error.msg}): write one whole object") from error
    except RecursionError as error:
        raise InvalidInput(_TOO_DEEP) from error
    except ValueError as error:
        raise InvalidInput("a number has too many digits: write it as a string") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise InvalidInput(f"the key {twice[:80]!r} is given twice: keep one")
    return members


def _refuse_constant(constant: str) -> NoReturn:
    raise InvalidInput(f"{constant} is not JSON: use null, or leave the key out")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise InvalidInput("a number is too large for a float: write it as a string")
    return number


def _is_deeper(value: object, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    members = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(member, levels - 1) for member in members)


def _check_escapes(text: str, value: object) -> None:
    if _NUL_ESCAPE.search(text):
        raise InvalidInput("it holds a NUL character, which no database stores as text: remove it")
    if _SURROGATE_ESCAPE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("it holds half of a surrogate pair: write the character itself") from error
