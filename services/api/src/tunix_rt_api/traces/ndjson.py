"""Reading newline-delimited JSON from a request body: line by line, with bounded memory, each bad line reported.

A file of a million rows with three bad ones must lead to three messages, not to a refusal of the file, so a bad line
is a value (`Rejection`) here and not an exception.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tunix_rt_api.strictjson import parse_object
from tunix_rt_api.traces.importers import TraceFormat, import_trace
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.traces import Trace

MAX_LINE_BYTES = 24 * 1024 * 1024

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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


def parse_trace_line(line: bytes, trace_format: TraceFormat) -> Trace | Rejection:
    """Return the trace of one line, or why it cannot be taken."""
    try:
        return import_trace(parse_object(line), trace_format)
    except InvalidInput as error:
        return Rejection(str(error))


def _is_utf16(line: bytes) -> bool:
    return line.startswith(_UTF16_MARKS) or b"\x00" in line[:4]
