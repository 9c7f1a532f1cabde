"""What waits in the database, read when somebody scrapes: jobs, and doorbells that were not rung yet."""

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tunix_rt_common.db.models import JobRecord, OutboxRecord
from tunix_rt_common.db.session import Database, database_now
from tunix_rt_common.errors import Unavailable
from tunix_rt_common.messages import MESSAGES
from tunix_rt_common.pipeline import is_due
from tunix_rt_common.states import CLAIMABLE, JobState

logger = logging.getLogger(__name__)

PATIENCE_S = 2.0


class Backlog(Collector):
    """Gauges from the database; a scrape while it is away tells `tunix_rt_database_up 0` and nothing else."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._scraping = threading.Lock()
        self._reader: threading.Thread | None = None
        self._found: Sequence[Metric] = ()

    def collect(self) -> Iterator[Metric]:
        """Read, for at most 2 s: a database that hangs must not make the scrape hang."""
        with self._scraping:
            found = self._read_in_time()
        up = GaugeMetricFamily("tunix_rt_database_up", "Whether the database answered this scrape", float(bool(found)))
        return iter([up, *found])

    def _read_in_time(self) -> Sequence[Metric]:
        if self._reader is None or not self._reader.is_alive():
            self._found = ()
            self._reader = threading.Thread(target=self._read, name="backlog", daemon=True)
            self._reader.start()
        self._reader.join(PATIENCE_S)
        return self._found

    def _read(self) -> None:
        try:
            with self._database.reading() as session:
                now = database_now(session)
                self._found = [*_jobs(session, now), *_outbox(session, now)]
        except (Unavailable, SQLAlchemyError) as error:
            logger.warning("a scrape tells nothing of what waits: %s", error)


def _jobs(session: Session, now: datetime) -> Iterable[Metric]:
    counts = GaugeMetricFamily("tunix_rt_jobs", "Jobs that wait or run", labels=["kind", "state"])
    ages = GaugeMetricFamily(
        "tunix_rt_queue_oldest_age_seconds", "For how long the oldest job could have started", labels=["kind"]
    )
    open_states = [*CLAIMABLE, JobState.PAUSED, JobState.RUNNING]
    grouped = select(JobRecord.kind, JobRecord.state, func.count()).where(JobRecord.state.in_(open_states))
    found = {
        (kind, state): number
        for kind, state, number in session.execute(grouped.group_by(JobRecord.kind, JobRecord.state))
    }
    due = select(JobRecord.kind, func.min(JobRecord.not_before)).where(JobRecord.state.in_(CLAIMABLE))
    oldest = dict(session.execute(due.group_by(JobRecord.kind)).all())
    for kind in MESSAGES:
        for state in open_states:
            counts.add_metric([kind, state], found.get((kind, state), 0))
        ages.add_metric([kind], _age_s(now, oldest.get(kind)))
    return counts, ages


def _outbox(session: Session, now: datetime) -> Iterable[Metric]:
    waiting = select(func.count(), func.min(OutboxRecord.due_at)).where(is_due(now))
    number, oldest = session.execute(waiting).one()
    return (
        GaugeMetricFamily("tunix_rt_outbox_unpublished", "Doorbells that are due and not rung", number),
        GaugeMetricFamily(
            "tunix_rt_outbox_oldest_age_seconds", "For how long the oldest of them is due", _age_s(now, oldest)
        ),
    )


def _age_s(now: datetime, since: datetime | None) -> float:
    return max(0.0, (now - since).total_seconds()) if since else 0.0
