"""One streamed import: bytes in, traces stored in small transactions, bad lines collected."""

from collections.abc import Iterable

from tunix_rt_api.traces import service
from tunix_rt_api.traces.ndjson import NdjsonLines, Rejection, parse_trace_line
from tunix_rt_api.traces.schemas import BatchOutcome, TraceFormat
from tunix_rt_common.db.session import Database
from tunix_rt_common.traces import Trace

STORE_EVERY = 200
STORE_EVERY_BYTES = 4 << 20


class BatchImport:
    """Holds at most one line and a few hundred small traces, however long the body is."""

    def __init__(self, database: Database, trace_format: TraceFormat, source: str | None) -> None:
        self._database = database
        self._format = trace_format
        self._source = source
        self._lines = NdjsonLines()
        self._held: list[Trace] = []
        self._held_bytes = 0
        self._outcome = BatchOutcome()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        self._take(self._lines.feed(chunk))

    def finish(self) -> BatchOutcome:
        """Take what is left; the outcome of the whole import."""
        self._take(self._lines.close())
        self._store()
        return self._outcome

    def _take(self, lines: Iterable[tuple[int, bytes | Rejection]]) -> None:
        for number, line in lines:
            parsed = line if isinstance(line, Rejection) else parse_trace_line(line, self._format)
            if isinstance(parsed, Rejection):
                service.add_rejection(self._outcome, number, parsed.message)
                continue
            self._held.append(parsed)
            self._held_bytes += len(line) if isinstance(line, bytes) else 0
            if len(self._held) >= STORE_EVERY or self._held_bytes >= STORE_EVERY_BYTES:
                self._store()

    def _store(self) -> None:
        if not self._held:
            return
        stored = service.store_traces(self._database, self._held, self._source)
        duplicates = sum(trace.duplicate for trace in stored)
        self._outcome.duplicates += duplicates
        self._outcome.accepted += len(stored) - duplicates
        self._held.clear()
        self._held_bytes = 0
