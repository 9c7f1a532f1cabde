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
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from tunix_rt_common import endings, pipeline
from tunix_rt_common.childprocess import ChildProcess
from tunix_rt_common.db.models import JobRecord, RunRecord
from tunix_rt_common.endings import ExitCode
from tunix_rt_common.errors import InvalidInput, NotFound, OwnershipLost, TunixError, Unavailable
from tunix_rt_common.jobreport import JobReport
from tunix_rt_common.leasekeeper import LeaseKeeper
from tunix_rt_common.logarchive import archive_logs
from tunix_rt_common.messages import JobKind, Message
from tunix_rt_common.pipeline import Claim, Ending, JobState, NewJob
from tunix_rt_common.world import World

logger = logging.getLogger(__name__)

FINISH_PATIENCE = 5

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
        notify: Callable[[], None],
    ) -> None:
        self._world = world
        self._jobs = jobs
        self._stopping = stopping
        self._notify = notify
        self._worker = f"{socket.gethostname()}:{os.getpid()}"

    def handle(self, message: Message) -> None:
        """The worker's edge: whatever a job does, the worker lives on. A job that failed here is swept later."""
        try:
            self._handle(message)
        except (OwnershipLost, Unavailable, NotFound) as error:
            logger.warning("job %s left to the sweeper: %s", message.job_id, error)
        except Exception:
            logger.exception("job %s left to the sweeper after an unforeseen error", message.job_id)

    def _handle(self, message: Message) -> None:
        if self._stopping.is_set():
            return
        with self._world.database.transaction() as session:
            claim = pipeline.claim(session, message.job_id, self._worker, self._world.settings.lease_s)
        if claim is None:
            return
        job = self._jobs[claim.kind]
        report = JobReport()
        with LeaseKeeper(self._world, claim, report) as lease:
            ending = self._in_child(job, claim, report, lease) if isinstance(job, ChildJob) else self._here(job, claim)
        self._close(claim, job.finish, ending)
        self._notify()

    def _here(self, job: ShortJob, claim: Claim) -> Ending:
        try:
            return Ending(JobState.SUCCEEDED, f"{claim.kind} done", result=job.work(self._world, claim))
        except Unavailable as error:
            words = str(error)
            return self._judge(claim, lambda row: endings.died(row, self._world.settings, ExitCode.STORAGE_AWAY, words))
        except TunixError as error:
            return endings.user_error(str(error))

    def _in_child(self, job: ChildJob, claim: Claim, report: JobReport, lease: LeaseKeeper) -> Ending:
        with ChildProcess(job.module, claim, self._world.settings, report) as child:
            reason = child.wait(lambda: lease.stop_reason(self._stopping))
        lease.flush()
        if reason == "cancel":
            return endings.cancelled()
        if reason == "timeout":
            return endings.user_error(f"took longer than the {claim.timeout_s:g} s it was given", "timeout")
        return self._judge(claim, lambda row: self._verdict(claim, child.exit_status, reason, report, row))

    def _verdict(self, claim: Claim, exit_status: int, reason: str | None, report: JobReport, row: JobRecord) -> Ending:
        if exit_status == ExitCode.DONE and report.result is not None:
            return Ending(JobState.SUCCEEDED, f"{claim.kind} done", result=report.result)
        if exit_status == ExitCode.USER_ERROR:
            return endings.user_error(report.failure or "the job failed without saying why: read its logs")
        if exit_status == ExitCode.PREEMPTED or reason == "shutdown":
            return endings.preempted()
        if exit_status == ExitCode.OWNERSHIP_LOST:
            raise OwnershipLost(f"the child of job {claim.job_id} found another owner")
        words = "it reported nothing for too long" if reason == "hung" else report.failure or ""
        return endings.died(row, self._world.settings, exit_status, words)

    def _judge(self, claim: Claim, rule: Callable[[JobRecord], Ending]) -> Ending:
        with self._world.database.transaction() as session:
            return rule(pipeline.hold(session, claim))

    def _close(self, claim: Claim, finish: Finish, ending: Ending) -> None:
        """Publish the ending; while database or store are away the work is kept and tried again."""
        for patience in range(FINISH_PATIENCE):
            try:
                logs_sha256 = archive_logs(self._world.database, self._world.store, claim)
                self._publish(claim, finish, ending, logs_sha256)
            except Unavailable:
                if patience == FINISH_PATIENCE - 1:
                    raise
                self._stopping.wait(2**patience)
            except InvalidInput as error:
                ending = endings.user_error(str(error))
            else:
                return

    def _publish(self, claim: Claim, finish: Finish, ending: Ending, logs_sha256: str | None) -> None:
        with self._world.database.transaction() as session:
            job = pipeline.hold(session, claim)
            if job.cancel_requested_at and ending.state == JobState.SUCCEEDED:
                ending = endings.cancelled()
            if logs_sha256:
                session.get_one(RunRecord, claim.run_id).logs_sha256 = logs_sha256
            next_jobs: Sequence[NewJob] = ()
            if ending.state == JobState.SUCCEEDED and ending.result is not None:
                next_jobs = finish(self._world, session, claim, ending.result)
            pipeline.advance(session, claim, ending, next_jobs)
