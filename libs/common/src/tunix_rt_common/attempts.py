"""What an attempt leaves behind for those who watch: its span, below the one that asked for it, and its numbers."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry.trace import SpanKind

from tunix_rt_common import metrics, telemetry
from tunix_rt_common.db.models import utc_now
from tunix_rt_common.messages import MESSAGES, SERVICES
from tunix_rt_common.pipeline import Claim


@dataclass
class Measured:
    """What is known of an attempt when it is over."""

    outcome: str = "left"


@contextmanager
def attempt_span(claim: Claim) -> Iterator[None]:
    """The time that the job waited, then the attempt; a retry links to the attempts before it."""
    service = SERVICES[MESSAGES[claim.kind].queue]
    ids: dict[str, Any] = {"run_id": claim.run_id, "job_id": claim.job_id, "attempt": claim.attempt, "service": service}
    telemetry.record(f"wait {claim.kind}", claim.waiting_since, utc_now(), parent=claim.traceparent, **ids)
    with telemetry.span(
        claim.kind, parent=claim.traceparent, links=claim.earlier_attempts, kind=SpanKind.CONSUMER, **ids
    ):
        yield


@contextmanager
def attempt_metrics(claim: Claim) -> Iterator[Measured]:
    """Counts and times the attempt by kind and by the state that it led to."""
    waited_s = (utc_now() - claim.waiting_since).total_seconds()
    metrics.QUEUE_WAIT.labels(claim.kind).observe(max(0.0, waited_s))
    measured, started = Measured(), time.monotonic()
    try:
        yield measured
    finally:
        metrics.JOBS_FINISHED.labels(claim.kind, measured.outcome).inc()
        metrics.JOB_DURATION.labels(claim.kind, measured.outcome).observe(time.monotonic() - started)
