"""Traces: storing, importing, listing."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from tunix_rt.connection import Connection, quoted
from tunix_rt.downloads import Progress, ignore_progress
from tunix_rt.types import ImportOutcome, StoredTrace, TraceAccepted
from tunix_rt_common.traces import Trace

TraceFormat = Literal["auto", "native", "gsm8k", "messages", "prompt-completion", "preference"]

CHUNK_BYTES = 256 * 1024


class Traces:
    """The traces of a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, trace: Trace, *, source: str | None = None) -> TraceAccepted:
        """Store one trace; the same trace again is answered with the id that it has."""
        body = trace.model_dump(mode="json", exclude_none=True)
        return self._connection.send("POST", "/traces", TraceAccepted, body, {"source": source})

    def get(self, trace_id: str) -> StoredTrace:
        """One trace."""
        return self._connection.get(f"/traces/{quoted(trace_id)}", StoredTrace)

    def list(self, *, source: str | None = None, limit: int | None = None) -> Iterator[StoredTrace]:
        """Traces, newest first."""
        return self._connection.pages("/traces", StoredTrace, {"source": source}, limit=limit)

    def upload(
        self, chunks: Iterable[bytes], *, trace_format: TraceFormat = "auto", source: str | None = None
    ) -> ImportOutcome:
        """Import newline-delimited JSON, sent as it is produced; chunks need not end at line ends."""
        params = {"format": trace_format, "source": source}
        return self._connection.upload("/traces/batch", ImportOutcome, chunks, params)

    def upload_file(
        self,
        path: Path,
        *,
        trace_format: TraceFormat = "auto",
        source: str | None = None,
        progress: Progress = ignore_progress,
    ) -> ImportOutcome:
        """Import a file of any size; `progress` is told how many bytes went out."""
        return self.upload(_chunks(path, progress), trace_format=trace_format, source=source)


def _chunks(path: Path, progress: Progress) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
            progress(len(chunk))
