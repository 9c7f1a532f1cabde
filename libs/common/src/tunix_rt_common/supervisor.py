"""Runs one job for any worker: claim, work, heartbeat with proof of progress, advance.

The work happens in an exec'd child (training, generation) or in the worker itself (short, no JAX). Either way one
thread keeps the lease and writes down what the job says, so the database hears of progress, cancel is noticed within
a heartbeat, and a second owner is noticed before anything is written.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.orm import Session

from tunix_rt_common import endings, metrics, pipeline, telemetry
from tunix_rt_common.attempts import attempt_metrics, attempt_span
from tunix_rt_common.childprocess import ChildProcess
from tunix_rt_common.db.models import JobRecord, RunRecord
from tunix_rt_common.endings import ExitCode
from tunix_rt_common.errors import Conflict, InvalidInput, NotFound, OwnershipLost, TunixError, Unavailable
from tunix_rt_common.jobreport import JobReport
from tunix_rt_common.leasekeeper import LeaseKeeper
from tunix_rt_common.logarchive import archive_logs
from tunix_rt_common.messages import AnyMessage, JobKind
from tunix_rt_common.pipeline import Claim, Ending, NewJob
from tunix_rt_common.states import JobState
from tunix_rt_common.world import World

logger = logging.getLogger(__name__)

FINISH_PATIENCE = 5
WISHES: dict[str, Callable[[], Ending]] = {
    "cancel": endings.cancelled,
    "deadline": endings.overdue,
    "pause": endings.paused,
}

Finish = Callable[[World, Session, Claim, dict[str, Any]], Sequence[NewJob]]
Work = Callable[[World, Claim], dict[str, Any]]


@dataclass(frozen=True)
class ChildJob:
    """A job that an exec'd child does: the module to run, and what its result leads to."""

    module: str
    finish: Finish


@dataclass(frozen=True)
class ShortJob:
    """A job done in the worker itself; `work` reads and stores, `finish` publishes in the closing transaction."""

    work: Work
    finish: Finish


class Supervisor:
    """Handles the messages of one worker."""

    def __init__(
        self,
        world: World,
        jobs: dict[JobKind, ChildJob | ShortJob],
        stopping: threading.Event,
    ) -> None:
        self._world = world
        self._jobs = jobs
        self._stopping = stopping
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def answer(self, message: AnyMessage) -> None:
        """A doorbell rang: work until nothing is due. It need not be the job that the message names."""
        if not self.work_once():
            metrics.DOORBELLS_UNNEEDED.labels(message.kind).inc()
            return
        while self.work_once():
            pass

    def work_once(self) -> bool:
        """Do the job whose turn it is; False when nothing is due, or this worker should not take any.

        The worker's edge: whatever a job does, the worker lives on. What failed here is swept later.
        """
        if self._stopping.is_set():
            return False
        try:
            claim = self._claim()
        except (Unavailable, Conflict) as error:
            logger.warning("no job was claimed: %s", error)
            return False
        if claim is None:
            return False
        with telemetry.context(run_id=claim.run_id, job_id=claim.job_id):
            logger.info("%s attempt %d claimed", claim.kind, claim.attempt)
            try:
                self._work(claim)
            except (OwnershipLost, Unavailable, NotFound) as error:
                logger.warning("job left to the sweeper: %s", error)
            except Exception:
                logger.exception("job left to the sweeper after an unforeseen error")
        return True

    def _claim(self) -> Claim | None:
        with self._world.database.transaction() as session:
            return pipeline.claim_next(session, list(self._jobs), self._worker, self._world.settings.lease_s)

    def _work(self, claim: Claim) -> None:
        job = self._jobs[claim.kind]
        with attempt_span(claim), attempt_metrics(claim) as measured:
            report = JobReport()
            with LeaseKeeper(self._world, claim, report, telemetry.traceparent()) as lease:
                if isinstance(job, ChildJob):
                    ending = self._in_child(job, claim, report, lease)
                else:
                    ending = self._here(job, claim)
            measured.outcome = self._close(claim, job.finish, ending)
            telemetry.annotate(outcome=measured.outcome)

    def _here(self, job: ShortJob, claim: Claim) -> Ending:
        try:
            return Ending(JobState.SUCCEEDED, f"{claim.kind} done", result=job.work(self._world, claim))
        except Unavailable as error:
            words = str(error)
            return self._judge(claim, lambda row: endings.died(row, self._world.settings, ExitCode.STORAGE_AWAY, words))
        except TunixError as error:
            return endings.user_error(str(error))

    def _in_child(self, job: ChildJob, claim: Claim, report: JobReport, lease: LeaseKeeper) -> Ending:
        context = telemetry.traceparent()
        with ChildProcess(job.module, claim, self._world.settings, report, context) as child:
            reason = child.wait(lambda: lease.stop_reason(self._stopping))
        lease.flush()
        if reason in WISHES and not (reason == "pause" and child.exit_status == ExitCode.DONE):
            return WISHES[reason]()
        if reason == "timeout":
            return endings.user_error(f"took longer than the {claim.timeout_s:g} s it was given", "timeout")
        return self._judge(claim, lambda row: self._verdict(claim, child.exit_status, reason, report, row))

    def _verdict(self, claim: Claim, exit_status: int, reason: str | None, report: JobReport, row: JobRecord) -> Ending:
        if exit_status == ExitCode.DONE and report.result is not None:
            return Ending(JobState.SUCCEEDED, f"{claim.kind} done", result=report.result)
        if exit_status == ExitCode.USER_ERROR:
            return endings.user_error(report.failure or "the job failed without saying why: read its logs")
        if exit_status == ExitCode.PREEMPTED or reason == "shutdown":
            return endings.preempted(row, self._world.settings)
        if exit_status == ExitCode.OWNERSHIP_LOST:
            raise OwnershipLost(f"the child of job {claim.job_id} found another owner")
        words = "it reported nothing for too long" if reason == "hung" else report.failure or ""
        return endings.died(row, self._world.settings, exit_status, words)

    def _judge(self, claim: Claim, rule: Callable[[JobRecord], Ending]) -> Ending:
        with self._world.database.transaction() as session:
            return rule(pipeline.hold(session, claim))

    def _close(self, claim: Claim, finish: Finish, ending: Ending) -> JobState:
        """Publish the ending; while database or store are away the work is kept and tried again."""
        patience = 0
        while True:
            try:
                logs_sha256 = archive_logs(self._world.database, self._world.store, claim)
                return self._publish(claim, finish, ending, logs_sha256)
            except (Unavailable, Conflict):
                patience += 1
                if patience == FINISH_PATIENCE:
                    raise
                self._stopping.wait(2 ** (patience - 1))
            except InvalidInput as error:
                ending = endings.user_error(str(error))

    def _publish(self, claim: Claim, finish: Finish, ending: Ending, logs_sha256: str | None) -> JobState:
        with self._world.database.transaction() as session:
            job = pipeline.hold(session, claim)
            if job.cancel_requested_at and ending.state == JobState.SUCCEEDED:
                ending = endings.cancelled()
            if logs_sha256:
                session.get_one(RunRecord, claim.run_id).logs_sha256 = logs_sha256
            next_jobs: Sequence[NewJob] = ()
            if ending.state == JobState.SUCCEEDED and ending.result is not None:
                next_jobs = finish(self._world, session, claim, ending.result)
            here = telemetry.traceparent()
            pipeline.advance(session, claim, ending, [replace(job, traceparent=here) for job in next_jobs])
        return ending.state
