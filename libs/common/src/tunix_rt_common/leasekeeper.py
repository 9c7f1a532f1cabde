"""Keeps a claim alive while its job runs, and writes down what the job says."""

import logging
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from tunix_rt_common import metrics, pipeline
from tunix_rt_common.db.models import LogRecord, MetricRecord, RunRecord
from tunix_rt_common.errors import OwnershipLost, Unavailable
from tunix_rt_common.jobreport import JobReport, Progress, Story
from tunix_rt_common.pipeline import Claim, Wish
from tunix_rt_common.world import World

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

logger = logging.getLogger(__name__)

StopReason = Literal["lost", "timeout", "hung", "shutdown"] | Wish


class LeaseKeeper:
    """A thread that beats every `heartbeat_s`: lease, step, metrics, logs and story in one fenced transaction."""

    def __init__(self, world: World, claim: Claim, report: JobReport, traceparent: str | None = None) -> None:
        self._world = world
        self._traceparent = traceparent
        self._claim = claim
        self._report = report
        self._started = time.monotonic()
        self._done = threading.Event()
        self._beating = threading.Lock()
        self._lost = False
        self._wish: Wish | None = None
        self._thread = threading.Thread(target=self._keep, name=f"lease-{claim.kind}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def stop_reason(self, stopping: threading.Event) -> StopReason | None:
        """Why the job should stop now, if it should."""
        now = time.monotonic()
        if self._lost:
            return "lost"
        if self._wish:
            return self._wish
        if self._claim.timeout_s and now - self._started > self._claim.timeout_s:
            return "timeout"
        if now - self._report.heard_at > self._world.settings.progress_timeout_s:
            return "hung"
        return "shutdown" if stopping.is_set() else None

    def flush(self) -> None:
        """Beat now: whatever the job has said so far is written when this returns, or ownership is lost."""
        with self._beating:
            lines, logs = self._report.take()
            try:
                with self._world.database.transaction() as session:
                    self._wish = pipeline.heartbeat(
                        session,
                        self._claim,
                        step=self._report.step,
                        total_steps=self._report.total_steps,
                        lease_s=self._world.settings.lease_s,
                    )
                    self._trace(session)
                    self._save(session, lines, logs)
            except Unavailable:
                self._report.give_back(lines, logs)
                raise

    def _keep(self) -> None:
        while not self._done.wait(self._world.settings.heartbeat_s):
            try:
                self.flush()
            except Unavailable as error:
                logger.warning("heartbeat of job %s waits: %s", self._claim.job_id, error)
            except OwnershipLost:
                self._lost = True
                return

    def _trace(self, session: "Session") -> None:
        if self._traceparent:
            pipeline.trace_attempt(session, self._claim, self._traceparent)
            self._traceparent = None

    def _save(self, session: "Session", lines: list[Progress | Story], logs: dict[str, bytes]) -> None:
        run_id = self._claim.run_id
        for line in lines:
            if isinstance(line, Story):
                pipeline.tell(session, self._claim, line.kind, line.message, line.detail)
        if run_id is None:
            return
        progress = [line for line in lines if isinstance(line, Progress)]
        for line in progress:
            if line.numbers:
                session.merge(MetricRecord(run_id=run_id, step=line.step, numbers=line.numbers))
        if progress and self._claim.kind == "train":
            run = session.get_one(RunRecord, run_id)
            run.step, run.total_steps = progress[-1].step, progress[-1].total_steps or run.total_steps
            metrics.TRAINED_TOKENS_PER_SECOND.set(progress[-1].numbers.get("tokens_per_s") or 0)
        for stream, chunk in logs.items():
            session.add(
                LogRecord(
                    run_id=run_id,
                    job_id=self._claim.job_id,
                    attempt=self._claim.attempt,
                    stream=stream,
                    chunk=chunk,
                )
            )
