"""Prometheus metrics of every service, and where they are scraped.

Each process counts what it does; what waits in the database is read when somebody scrapes (`backlog`).
"""

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from tunix_rt_common.backlog import Backlog
from tunix_rt_common.db.session import Database

DURATION_BUCKETS_S = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400)
WAIT_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3_600, 14_400, 86_400)

REGISTRY = CollectorRegistry()

JOBS_FINISHED = Counter(
    "tunix_rt_jobs_finished", "Attempts that ended, by the state they left", ["kind", "state"], registry=REGISTRY
)
JOB_DURATION = Histogram(
    "tunix_rt_job_duration_seconds",
    "From claim to end of an attempt",
    ["kind", "state"],
    buckets=DURATION_BUCKETS_S,
    registry=REGISTRY,
)
QUEUE_WAIT = Histogram(
    "tunix_rt_queue_wait_seconds",
    "From when a job could start to its claim",
    ["kind"],
    buckets=WAIT_BUCKETS_S,
    registry=REGISTRY,
)
LEASES_LOST = Counter(
    "tunix_rt_leases_lost", "Leases that ran out or went to another worker", ["kind"], registry=REGISTRY
)
DOORBELLS_PUBLISHED = Counter(
    "tunix_rt_doorbells_published", "Messages handed to the queue", ["kind"], registry=REGISTRY
)
DOORBELLS_UNNEEDED = Counter(
    "tunix_rt_doorbells_unneeded", "Messages whose job somebody else had, or nobody needed", ["kind"], registry=REGISTRY
)
TRAINED_TOKENS_PER_SECOND = Gauge(
    "tunix_rt_trained_tokens_per_second", "Tokens per second of the newest training step here", registry=REGISTRY
)
HTTP_REQUEST_DURATION = Histogram(
    "tunix_rt_http_request_duration_seconds",
    "From the request's head to the end of its answer",
    ["method", "route", "status"],
    registry=REGISTRY,
)


def registry_over(database: Database) -> CollectorRegistry:
    """What this process counted, and what waits in the database at the time of the scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(REGISTRY)
    registry.register(Backlog(database))
    return registry


def serve(port: int, database: Database, host: str = "0.0.0.0") -> WSGIServer:  # noqa: S104
    """Serve `/metrics` of a worker on a thread of its own; `OSError` when the port is taken."""
    server, _ = start_http_server(port, host, registry_over(database))
    return server
