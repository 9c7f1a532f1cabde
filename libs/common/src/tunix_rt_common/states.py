"""The states of a job, and the moves between them that `pipeline` may make."""

from enum import StrEnum


class JobState(StrEnum):
    """The states of a job, and of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRY_WAIT = "retry_wait"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    QUARANTINED = "quarantined"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.QUARANTINED, JobState.CANCELLED})
CLAIMABLE = frozenset({JobState.QUEUED, JobState.RETRY_WAIT})
WAITING = CLAIMABLE | {JobState.PAUSED}
OVERRULED_BY_CANCEL = WAITING | {JobState.SUCCEEDED}
LEGAL: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED, JobState.FAILED}),
    JobState.RETRY_WAIT: frozenset({JobState.RUNNING, JobState.PAUSED, JobState.CANCELLED, JobState.FAILED}),
    JobState.PAUSED: frozenset({JobState.QUEUED, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: TERMINAL | {JobState.QUEUED, JobState.RETRY_WAIT, JobState.PAUSED},
} | dict.fromkeys(TERMINAL, frozenset())
