"""Where finished spans go: the database, and an OTLP collector when one is named.

Spans are worth less than work. They leave in batches on a thread of their own; whoever takes them may be away or hang,
which is told once, costs the spans of that time, and nothing else.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import StatusCode
from sqlalchemy.exc import SQLAlchemyError

from tunix_rt_common.db.models import Document, SpanRecord
from tunix_rt_common.db.session import Database
from tunix_rt_common.errors import Unavailable

logger = logging.getLogger(__name__)

RUN_ID, JOB_ID = "tunix_rt.run_id", "tunix_rt.job_id"
ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
COLLECTOR = "the OTLP collector"
SCHEDULE_DELAY_MS = 500
HANGING_S = 1.0
NAME_CHARS = 200
SERVICE_PREFIX = "tunix-rt-"


class Outlet:
    """One way out for spans: a queue of bounded size, a thread that empties it, and whether its end answers."""

    def __init__(self, name: str, open_exporter: Callable[[], SpanExporter]) -> None:
        self.name = name
        self._exporter = PatientExporter(name, open_exporter)
        self.processor = BatchSpanProcessor(self._exporter, schedule_delay_millis=SCHEDULE_DELAY_MS)

    def answers(self) -> bool:
        """Whether the last batch arrived and none hangs."""
        return self._exporter.answers()

    def close(self, timeout_s: float) -> None:
        """Send what is left, for at most `timeout_s`; without waiting when nobody answers anyway."""
        closing = threading.Thread(target=self.processor.shutdown, name="telemetry-shutdown", daemon=True)
        closing.start()
        if self.answers():
            closing.join(timeout_s)


class PatientExporter(SpanExporter):
    """An exporter that is opened by its first batch, on the thread that sends it, and whose failures are told once."""

    def __init__(self, name: str, open_exporter: Callable[[], SpanExporter]) -> None:
        self._name = name
        self._open = open_exporter
        self._exporter: SpanExporter | None = None
        self._failing = False
        self._sending_since: float | None = None

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, or drop it."""
        self._exporter = self._exporter or self._open()
        self._sending_since = time.monotonic()
        result = self._exporter.export(spans)
        self._sending_since = None
        self._tell(failing=result is not SpanExportResult.SUCCESS)
        return result

    def answers(self) -> bool:
        """Whether the last batch arrived and none hangs."""
        hanging = self._sending_since is not None and time.monotonic() - self._sending_since > HANGING_S
        return not (self._failing or hanging)

    def shutdown(self) -> None:
        """Let go of the connection."""
        if self._exporter is not None:
            self._exporter.shutdown()

    def _tell(self, *, failing: bool) -> None:
        if failing and not self._failing:
            logger.warning("%s takes no spans: they are dropped until it does", self._name)
        elif self._failing and not failing:
            logger.info("%s takes spans again", self._name)
        self._failing = failing


class DatabaseExporter(SpanExporter):
    """Keeps the spans of runs and jobs as rows, so that the waterfall of a run needs no tracing backend."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write a batch; spans that belong to no job are not kept."""
        rows = [_row(span) for span in spans if {RUN_ID, JOB_ID} & set(span.attributes or ())]
        try:
            if rows:
                with self._database.transaction() as session:
                    session.add_all(rows)
        except (Unavailable, SQLAlchemyError):
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing to do: the database belongs to others."""


def outlets(database: Database | None) -> list[Outlet]:
    """The ways out of this process: to the database where there is one, to the collector that the environment names.

    From then on OpenTelemetry's own complaints are silent, since they repeat with every batch.
    """
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    found = [Outlet("the database", lambda: DatabaseExporter(database))] if database is not None else []
    if any(os.environ.get(variable) for variable in ENDPOINT_VARIABLES):
        found.append(Outlet(COLLECTOR, _open_otlp))
    return found


def _open_otlp() -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _row(span: ReadableSpan) -> SpanRecord:
    return SpanRecord(
        trace_id=f"{span.context.trace_id:032x}",
        span_id=f"{span.context.span_id:016x}",
        parent_span_id=f"{span.parent.span_id:016x}" if span.parent else None,
        name=span.name[:NAME_CHARS],
        service=str(span.resource.attributes["service.name"]).removeprefix(SERVICE_PREFIX),
        started_at=_moment(span.start_time),
        ended_at=_moment(span.end_time),
        status="error" if span.status.status_code is StatusCode.ERROR else "ok",
        attributes=_document(span.attributes),
        links={
            "spans": [
                {"trace_id": f"{link.context.trace_id:032x}", "span_id": f"{link.context.span_id:016x}"}
                for link in span.links
            ]
        },
    )


def _document(attributes: Mapping[str, Any] | None) -> Document:
    plain = (attributes or {}).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain}


def _moment(nanoseconds: int | None) -> datetime:
    return datetime.fromtimestamp((nanoseconds or 0) / 1e9, UTC)
