"""How an attempt ended and what that means for its job: pure rules, one table.

Children speak in exit codes (0 done, 10 the user's error, 20 out of memory, 30 storage away, 40 told to leave and a
checkpoint is kept, 75 ownership lost); everything else is a death that the child did not choose.
"""

from enum import IntEnum

from tunix_rt_common.db.models import JobRecord
from tunix_rt_common.pipeline import Ending, JobState
from tunix_rt_common.settings import Settings

MAX_DELAY_S = 60.0


class ExitCode(IntEnum):
    """What a child's exit status says."""

    DONE = 0
    USER_ERROR = 10
    OUT_OF_MEMORY = 20
    STORAGE_AWAY = 30
    PREEMPTED = 40
    OWNERSHIP_LOST = 75


def cancelled() -> Ending:
    """The user asked for it."""
    return Ending(JobState.CANCELLED, "cancelled; the last good checkpoint is kept", counted=False)


def preempted() -> Ending:
    """The worker was told to leave: the job waits for the next one, at no cost."""
    return Ending(JobState.QUEUED, "preempted; continues from its last checkpoint", "preempted", counted=False)


def user_error(message: str, failure_class: str = "user_error") -> Ending:
    """Trying again cannot help."""
    return Ending(JobState.FAILED, message, failure_class)


def lease_lost(job: JobRecord, settings: Settings) -> Ending:
    """The worker fell silent."""
    return retry_or_quarantine(job, settings, "lost", f"worker {job.worker} fell silent; its lease ran out")


def died(job: JobRecord, settings: Settings, exit_status: int, last_words: str) -> Ending:
    """The ending of an attempt whose child exited without a result and without naming a user's error."""
    failure_class = {ExitCode.OUT_OF_MEMORY: "out_of_memory", ExitCode.STORAGE_AWAY: "storage"}.get(
        exit_status,
        "crash",  # type: ignore[call-overload]
    )
    how = f"was killed by signal {-exit_status}" if exit_status < 0 else f"exited with status {exit_status}"
    return retry_or_quarantine(job, settings, failure_class, f"child {how}{last_words and ': ' + last_words}")


def retry_or_quarantine(job: JobRecord, settings: Settings, failure_class: str, message: str) -> Ending:
    """Another attempt after a pause, while the budget lasts and attempts do not all end at one step."""
    stalled = job.stalled_attempts + 1 if job.step == job.last_ended_step else 1
    if stalled >= settings.max_stalled_attempts:
        spent = f"{stalled} attempts in a row ended at step {job.step}"
    elif job.counted_attempts + 1 >= settings.max_attempts:
        spent = f"all {settings.max_attempts} attempts are spent"
    else:
        delay_s = min(MAX_DELAY_S, settings.retry_delay_s * 2**job.counted_attempts)
        return Ending(JobState.RETRY_WAIT, f"{message}; tries again in {delay_s:g} s", failure_class, delay_s=delay_s)
    advice = "read the run's logs, mend the cause, start a new run"
    return Ending(JobState.QUARANTINED, f"{message}; {spent}: {advice}", failure_class)
