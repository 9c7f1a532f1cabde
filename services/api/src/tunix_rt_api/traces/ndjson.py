"""Reading newline-delimited JSON from a request body: line by line, with bounded memory, each bad line reported.

A file of a million rows with three bad ones must lead to three messages, not to a refusal of the file, so a bad line
is a value (`Rejection`) here and not an exception.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from tunix_rt_api.traces.importers import Record, TraceFormat, import_trace
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.traces import Trace

MAX_LINE_BYTES = 24 * 1024 * 1024
MAX_DEPTH = 64

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True)
class Rejection:
    """Why a line was not taken, in one line, with what to do about it."""

    message: str


class NdjsonLines:
    """Splits chunks of bytes into numbered lines, holding at most one line of MAX_LINE_BYTES.

    Lines count from 1, blank ones too, but these are not yielded. A line that is too long is passed over and rejected
    once. A file that is not UTF-8 at all (UTF-16 by its first bytes) is rejected once, at line 1, and then ignored.
    """

    def __init__(self) -> None:
        self._number = 1
        self._held = bytearray()
        self._too_long = False
        self._unreadable = False

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes | Rejection]]:
        """Yield the lines that this chunk completes."""
        first, *rest = chunk.split(b"\n")
        self._hold(first)
        for part in rest:
            yield from self._take()
            self._number += 1
            self._hold(part)

    def close(self) -> Iterator[tuple[int, bytes | Rejection]]:
        """Yield the last line of a body that does not end with a line break."""
        yield from self._take()

    def _hold(self, part: bytes) -> None:
        if self._unreadable:
            return
        self._too_long = self._too_long or len(self._held) + len(part) > MAX_LINE_BYTES
        self._held += part[: MAX_LINE_BYTES - len(self._held)] if self._too_long else part

    def _take(self) -> Iterator[tuple[int, bytes | Rejection]]:
        line, too_long = bytes(self._held), self._too_long
        self._held.clear()
        self._too_long = False
        if self._number == 1:
            self._unreadable = _is_utf16(line)
            line = line.removeprefix(_UTF8_MARK)
        if self._number == 1 and self._unreadable:
            yield 1, Rejection("the file is UTF-16: save it as UTF-8")
        elif too_long:
            yield self._number, Rejection(f"the line is longer than {MAX_LINE_BYTES} bytes: shorten or split the trace")
        elif line.strip():
            yield self._number, line


def read_traces(chunks: Iterable[bytes], trace_format: TraceFormat) -> Iterator[tuple[int, Trace | Rejection]]:
    """Yield line number and trace, or why there is none, for every line of the body that is not blank."""
    for number, line in _numbered_lines(chunks):
        yield number, line if isinstance(line, Rejection) else parse_trace_line(line, trace_format)


def parse_trace_line(line: bytes, trace_format: TraceFormat) -> Trace | Rejection:
    """Return the trace of one line, or why it cannot be taken."""
    try:
        return import_trace(_record(line), trace_format)
    except InvalidInput as error:
        return Rejection(str(error))


def _numbered_lines(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes | Rejection]]:
    lines = NdjsonLines()
    for chunk in chunks:
        yield from lines.feed(chunk)
    yield from lines.close()


def _record(line: bytes) -> Record:
    """Decode one line strictly: what databases or other JSON readers would refuse or change is refused here."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"byte {error.start + 1} is not UTF-8: save the file as UTF-8") from error
    value = _parsed(text)
    if not isinstance(value, dict):
        raise InvalidInput("the row is not an object: write one {…} a line, and no list around them")
    if _is_deeper(value, MAX_DEPTH):
        raise InvalidInput(f"the row is nested deeper than {MAX_DEPTH} levels: flatten it")
    _check_escapes(text, value)
    return value


def _parsed(text: str) -> object:
    try:
        return json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_float=_finite
        )
    except json.JSONDecodeError as error:
        raise InvalidInput(
            f"not JSON at column {error.colno} ({error.msg}): write each object on a line of its own"
        ) from error
    except RecursionError as error:
        raise InvalidInput(f"the row is nested deeper than {MAX_DEPTH} levels: flatten it") from error
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
        raise InvalidInput("the row holds a NUL character, which no database stores as text: remove it")
    if _SURROGATE_ESCAPE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidInput("the row holds half of a surrogate pair: write the character itself") from error


def _is_utf16(line: bytes) -> bool:
    return line.startswith(_UTF16_MARKS) or b"\x00" in line[:4]
