"""One trace over the life of a run: spans of every service, tied together by the `traceparent` that rows carry.

Nothing here can fail the work that it watches, and before `setup` it does nothing at all.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tunix_rt_common import correlation
from tunix_rt_common.db.session import Database
from tunix_rt_common.spanexport import COLLECTOR, ENDPOINT_VARIABLES, SERVICE_PREFIX, Outlet, outlets
from tunix_rt_common.version import CODE_VERSION

SHUTDOWN_S = 1.0
PREFIX = "tunix_rt."
TRACEPARENT = "traceparent"

_W3C = TraceContextTextMapPropagator()


class SystemIds(IdGenerator):
    """Ids from the system's randomness: whoever seeds `random` must not make two attempts share them."""

    def generate_span_id(self) -> int:
        """64 bits, not all zero."""
        return secrets.randbelow(2**64 - 1) + 1

    def generate_trace_id(self) -> int:
        """128 bits, not all zero."""
        return secrets.randbelow(2**128 - 1) + 1

    def is_trace_id_random(self) -> bool:
        """All bits are."""
        return True


@dataclass
class Process:
    """What `setup` opened: the ways out, and a tracer for each service that lives here."""

    service: str
    database: Database | None
    outlets: Sequence[Outlet]
    pid: int = field(default_factory=os.getpid)
    tracers: dict[str, Tracer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fan = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        for outlet in self.outlets:
            self._fan.add_span_processor(outlet.processor)

    def tracer(self, service: str) -> Tracer:
        """The tracer whose spans say that `service` made them."""
        if service not in self.tracers:
            resource = Resource.create(
                {
                    SERVICE_NAME: f"{SERVICE_PREFIX}{service}",
                    SERVICE_VERSION: CODE_VERSION,
                    SERVICE_INSTANCE_ID: f"{socket.gethostname()}:{self.pid}",
                }
            )
            provider = TracerProvider(ALWAYS_ON, resource, False, self._fan, SystemIds())  # noqa: FBT003
            self.tracers[service] = provider.get_tracer("tunix_rt", CODE_VERSION)
        return self.tracers[service]


class _Here:
    """The telemetry of this process."""

    process: Process | None = None
    lock = threading.Lock()


def setup(service: str, database: Database | None = None) -> None:
    """Begin to keep spans in `database`, and to send them to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.

    Again for the same database, or without one, changes nothing; a forked process begins anew.
    """
    with _Here.lock:
        known = _Here.process
        if known and known.pid == os.getpid() and database in {None, known.database}:
            return
        _Here.process = Process(service, database, outlets(database))
    if known and known.pid == os.getpid():
        _close(known)


def shutdown() -> None:
    """Send what is left, for at most 1 s in all; spans that end later are dropped, until the next `setup`."""
    with _Here.lock:
        closing, _Here.process = _Here.process, None
    if closing and closing.pid == os.getpid():
        _close(closing)


def child_environment() -> dict[str, str]:
    """No collector for a child while it does not answer this process: a child that ends soon would wait for it."""
    collectors = [outlet for outlet in _Here.process.outlets if outlet.name == COLLECTOR] if _Here.process else []
    return {} if all(outlet.answers() for outlet in collectors) else dict.fromkeys(ENDPOINT_VARIABLES, "")


def traceparent() -> str | None:
    """The current span as a W3C traceparent, for a row, a header or the environment; None outside of any."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(TRACEPARENT)


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    links: Sequence[str | None] = (),
    service: str | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    **attributes: Any,
) -> Iterator[Span]:
    """A span over the block, current inside of it; an exception marks it as failed, by its type alone.

    `parent` and `links` are traceparents, by default the current span is the parent. Attributes get the prefix
    `tunix_rt.` unless their names have a dot; None is left out. `run_id` and `job_id` mark all that happens inside.
    """
    with (
        correlation.bound(service=service, run_id=attributes.get("run_id"), job_id=attributes.get("job_id")),
        _tracer().start_as_current_span(
            name,
            context=_context_of(parent) if parent else None,
            kind=kind,
            attributes=_named(attributes),
            links=_links(links),
            record_exception=False,
            set_status_on_exception=False,
        ) as opened,
    ):
        try:
            yield opened
        except BaseException as error:
            opened.set_attribute("error.type", type(error).__qualname__)
            opened.set_status(Status(StatusCode.ERROR))
            raise


def record(
    name: str,
    started_at: datetime,
    ended_at: datetime,
    *,
    parent: str | None,
    links: Sequence[str | None] = (),
    service: str | None = None,
    **attributes: Any,
) -> None:
    """A span of the past, such as the wait in a queue."""
    with correlation.bound(service=service, run_id=attributes.get("run_id"), job_id=attributes.get("job_id")):
        past = _tracer().start_span(
            name,
            context=_context_of(parent) if parent else None,
            attributes=_named(attributes),
            links=_links(links),
            start_time=_nanoseconds(started_at),
        )
        past.end(_nanoseconds(ended_at))


def annotate(**attributes: Any) -> None:
    """Add to the current span what became known after it began."""
    trace.get_current_span().set_attributes(_named(attributes))


@contextmanager
def continued(parent: str | None) -> Iterator[None]:
    """Hang the spans of the block below one of another process."""
    token = otel_context.attach(_context_of(parent)) if parent else None
    try:
        yield
    finally:
        if token:
            otel_context.detach(token)


def context(*, run_id: UUID | str | None = None, job_id: UUID | str | None = None) -> AbstractContextManager[None]:
    """Mark the log lines and spans of the block with what they are about."""
    return correlation.bound(run_id=run_id, job_id=job_id)


def _tracer() -> Tracer:
    process = _Here.process
    return process.tracer(correlation.current().service or process.service) if process else NoOpTracer()


def _context_of(parent: str) -> Context:
    """The remote span of a traceparent; an empty context, hence a new trace, when it is none."""
    return _W3C.extract({TRACEPARENT: parent}, Context())


def _links(parents: Sequence[str | None]) -> list[Link]:
    spans = (trace.get_current_span(_context_of(parent)).get_span_context() for parent in parents if parent)
    return [Link(linked) for linked in spans if linked.is_valid]


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    here = correlation.current()
    given = {"run_id": here.run_id, "job_id": here.job_id} | attributes
    return {
        name if "." in name else PREFIX + name: str(value) if isinstance(value, UUID) else value
        for name, value in given.items()
        if value is not None
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)


def _close(process: Process) -> None:
    deadline = time.monotonic() + SHUTDOWN_S
    for outlet in process.outlets:
        outlet.close(max(0.0, deadline - time.monotonic()))
