"""What the exit status of `tunix-rt` says; docs/cli.md lists the same for users."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Every status that the command ends with."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    PARTLY_REJECTED = 3
    CANCELLED = 4
    SERVER_AWAY = 5
    INTERRUPTED = 130
    BROKEN_PIPE = 141
