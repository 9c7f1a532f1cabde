"""Outbox to queue, and the sweeper that makes up for everything a queue may lose.

Both are safe when several run: publishing twice rings twice, which a claim survives, and every sweep is one
compare-and-swap per job.
"""

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from tunix_rt_common import metrics, pipeline, telemetry
from tunix_rt_common.db.models import OutboxRecord
from tunix_rt_common.db.session import Database, DatabaseClock, database_now
from tunix_rt_common.endings import lease_lost
from tunix_rt_common.errors import Unavailable
from tunix_rt_common.messages import MESSAGES
from tunix_rt_common.queue import Queue
from tunix_rt_common.settings import Settings

logger = logging.getLogger(__name__)

BATCH = 100
IDLE_S = 0.5
OUTAGE_S = 1.0
TAKEN_S = 15.0


class Relay:
    """Publishes due doorbells: those that this process commits at once, what others have left at the next look."""

    def __init__(self, database: Database, queue: Queue, settings: Settings) -> None:
        self._database = database
        self._queue = queue
        self._settings = settings
        self._heard: SimpleQueue[OutboxRecord] = SimpleQueue()
        self._awake = threading.Event()
        self._healthy_since: datetime | None = None
        self._swept_at = datetime.min.replace(tzinfo=UTC)
        self._next_sweep = 0.0

    def hear(self, session: Session) -> None:
        """A transaction of this process was committed: its doorbells need not be looked for."""
        for bell in pipeline.doorbells(session):
            self._heard.put(bell)
            self.wake()

    def wake(self) -> None:
        """Whatever there is to do, or to leave for, is now."""
        self._awake.set()

    def ring_waiting(self) -> None:
        """Announce every waiting job anew, for a queue that has forgotten what it held."""
        with self._database.transaction() as session:
            pipeline.ring_unheard(session, doorbell_s=0)

    def run(self, stop: threading.Event) -> None:
        """Publish and sweep until told to stop; an outage is waited out. A queue that is away keeps nobody's lease."""
        next_look = 0.0
        with self._database.heard_by(self.hear):
            while not stop.is_set():
                self._ring_heard()
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + max(self._publish(), self._sweep())
                self._awake.wait(max(0.0, next_look - time.monotonic()))
                self._awake.clear()

    def _ring_heard(self) -> None:
        """Ring what was heard of; when the queue or the database is away, it waits in the outbox for the next look."""
        heard: list[OutboxRecord] = []
        with suppress(Empty):
            while True:
                heard.append(self._heard.get_nowait())
        try:
            self._ring_all(heard)
        except Unavailable as error:
            logger.warning("doorbells wait: %s", error)

    def _publish(self) -> float:
        """How long to wait before the next look."""
        try:
            return 0.0 if self.publish_due() == BATCH else IDLE_S
        except Unavailable as error:
            logger.warning("doorbells wait: %s", error)
            return OUTAGE_S

    def _sweep(self) -> float:
        """How long to wait before the next look."""
        try:
            self._sweep_when_due()
        except Unavailable as error:
            self._healthy_since = None
            logger.warning("sweeps wait: %s", error)
            return OUTAGE_S
        return 0.0

    def publish_due(self) -> int:
        """Ring what is due; how many doorbells there were.

        Rows are taken for a while first, so that relays beside this one ring others; a relay that died gives them back
        by the passing of time.
        """
        rows = self._take()
        self._ring_all(rows)
        return len(rows)

    def _ring_all(self, rows: Sequence[OutboxRecord]) -> None:
        """Ring, then mark; a crash in between rings twice, which is harmless."""
        rung: list[int] = []
        try:
            for row in rows:
                self._ring(row)
                rung.append(row.id)
        finally:
            self._note(rung, [row.id for row in rows if row.id not in rung])

    def _ring(self, row: OutboxRecord) -> None:
        with telemetry.span(f"publish {row.kind}", parent=row.traceparent, service="relay", job_id=row.job_id):
            self._queue.publish(MESSAGES[row.kind](job_id=row.job_id))  # type: ignore[index]
        metrics.DOORBELLS_PUBLISHED.labels(row.kind).inc()

    def _note(self, rung: list[int], left: list[int]) -> None:
        if not rung and not left:
            return
        with self._database.transaction() as session:
            for ids, noted in ((rung, {"published_at": DatabaseClock()}), (left, {"taken_until": None})):
                if ids:
                    session.execute(update(OutboxRecord).where(OutboxRecord.id.in_(ids)).values(noted))

    def _take(self) -> Sequence[OutboxRecord]:
        with self._database.reading() as session:
            if session.scalar(select(OutboxRecord.id).where(pipeline.is_due(DatabaseClock())).limit(1)) is None:
                return ()
        with self._database.transaction() as session:
            now = database_now(session)
            due = select(OutboxRecord).where(pipeline.is_due(now)).order_by(OutboxRecord.id).limit(BATCH)
            rows = session.scalars(due.with_for_update(skip_locked=True)).all()
            for row in rows:
                row.taken_until = now + timedelta(seconds=TAKEN_S)
            return rows

    def _sweep_when_due(self) -> None:
        if time.monotonic() < self._next_sweep:
            return
        self._next_sweep = time.monotonic() + self._settings.sweep_s
        with self._database.transaction() as session:
            now = database_now(session)
            pipeline.ring_unheard(session, self._settings.doorbell_s)
            pipeline.fail_overdue(session)
        if self._healthy_s(now) >= self._settings.lease_s:
            self.expire_leases(now)

    def _healthy_s(self, now: datetime) -> float:
        """For how long sweeps have followed each other without an outage, a standstill or a sleeping machine."""
        patience = timedelta(seconds=self._settings.sweep_s + self._settings.lease_s / 2)
        if self._healthy_since is None or now - self._swept_at > patience:
            self._healthy_since = now
        self._swept_at = now
        return (now - self._healthy_since).total_seconds()

    def expire_leases(self, at: datetime | None = None) -> int:
        """Give the jobs of workers back that were silent at a moment, now unless given; how many there were.

        Called only after one healthy lease time, and for the moment at which it was healthy, so that a database outage
        does not count as everybody's silence.
        """
        with self._database.transaction() as session:
            lost = [
                job.kind
                for job in pipeline.expired(session, at)
                if pipeline.expire(session, job, lease_lost(job, self._settings), at)
            ]
        for kind in lost:
            metrics.LEASES_LOST.labels(kind).inc()
        return len(lost)
