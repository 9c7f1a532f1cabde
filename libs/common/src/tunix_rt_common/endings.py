"""How an attempt ended and what that means for its job: pure rules, one table.

Children speak in exit codes (0 done, 10 the user's error, 20 out of memory, 30 storage away, 40 told to leave and a
checkpoint is kept, 75 ownership lost); everything else is a death that the child did not choose.
"""

from enum import IntEnum

from tunix_rt_common.db.models import JobRecord
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.settings import Settings
from tunix_rt_common.states import JobState

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


def paused() -> Ending:
    """The user wants it to wait."""
    return Ending(JobState.PAUSED, "paused; resume continues from its last checkpoint", counted=False)


def overdue() -> Ending:
    """Its deadline passed while it ran."""
    return user_error("the run's deadline passed; the last good checkpoint is kept", "deadline")


def preempted(job: JobRecord, settings: Settings) -> Ending:
    """The worker was told to leave: the job waits for the next one, at no cost, unless it never comes to an end."""
    if job.attempt - job.counted_attempts >= settings.max_preemptions:
        return retry_or_quarantine(job, settings, "preempted", f"preempted {settings.max_preemptions} times")
    return Ending(JobState.QUEUED, "preempted; continues from its last checkpoint", "preempted", counted=False)


def user_error(message: str, failure_class: str = "user_error") -> Ending:
    """Trying again cannot help."""
    return Ending(JobState.FAILED, message, failure_class)


def lease_lost(job: JobRecord, settings: Settings) -> Ending:
    """The worker fell silent."""
    return retry_or_quarantine(job, settings, "lost", f"worker {job.worker} fell silent; its lease ran out")


def died(job: JobRecord, settings: Settings, exit_status: int, last_words: str) -> Ending:
    """The ending of an attempt whose child exited without a result and without naming a user's error."""
    how = f"was killed by signal {-exit_status}" if exit_status < 0 else f"exited with status {exit_status}"
    message = f"child {how}{last_words and ': ' + last_words}"
    if exit_status == ExitCode.OUT_OF_MEMORY:
        return _out_of_memory(job, settings, message)
    if exit_status == ExitCode.STORAGE_AWAY:
        return _storage_away(job, settings, message)
    return retry_or_quarantine(job, settings, "crash", message)


def _out_of_memory(job: JobRecord, settings: Settings, message: str) -> Ending:
    """Once may be a neighbour's fault; twice at one step is the job's own size."""
    if job.failure_class == "out_of_memory" and job.step == job.last_ended_step:
        return user_error(f"{message}; twice at step {job.step}", "out_of_memory")
    return retry_or_quarantine(job, settings, "out_of_memory", message)


def _storage_away(job: JobRecord, settings: Settings, message: str) -> Ending:
    """An attempt that could not begin costs nothing: it waits, longer each time, until the store is back."""
    began = job.step != (job.last_ended_step or 0)
    uncounted = job.attempt - job.counted_attempts
    if began or uncounted >= settings.max_preemptions:
        return retry_or_quarantine(job, settings, "storage", message)
    delay_s = min(MAX_DELAY_S, settings.retry_delay_s * 2 ** min(uncounted, 10))
    return Ending(
        JobState.RETRY_WAIT, f"{message}; tries again in {delay_s:g} s", "storage", counted=False, delay_s=delay_s
    )


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
