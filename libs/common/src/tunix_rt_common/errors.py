"""Every error that Tunix RT raises on purpose.

    TunixError
    ├── InvalidInput          422  the user's: a field, row or file is wrong; retrying cannot help
    │   ├── UnusableModel     422  a model directory that cannot be read or does not fit
    │   └── UnusableData      422  a dataset without usable rows, a loss that is not a number
    ├── NotFound              404
    ├── Conflict              409  somebody was faster; read again, then decide
    ├── PromotionRefused      403  an alias may not move: no passing verdict
    ├── EngineMissing         501  the asked engine is not installed
    ├── OwnershipLost         409  another claim owns the job: stop and write nothing
    ├── Overloaded            429  too much is waiting already; retryable
    └── Unavailable           503  storage or database away; retryable

Each message says what is wrong and what to do about it. The HTTP edge turns them into problem+json, the worker edge
into the failure class of an attempt.
"""

from http import HTTPStatus
from typing import ClassVar


class TunixError(Exception):
    """The root: an error whose message is fit for the user's eyes."""

    status: ClassVar[HTTPStatus] = HTTPStatus.INTERNAL_SERVER_ERROR
    retryable: ClassVar[bool] = False


class InvalidInput(TunixError):
    """The request names something that cannot work; `field` says which part of it."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnusableModel(InvalidInput):
    """A model or adapter directory is malformed, unsupported, or does not fit its config."""


class UnusableData(InvalidInput):
    """The data leaves nothing to train on, or training on it produced numbers that are not numbers."""


class NotFound(TunixError):
    """No such object."""

    status = HTTPStatus.NOT_FOUND


class Conflict(TunixError):
    """The object has changed since the caller last read it."""

    status = HTTPStatus.CONFLICT


class PromotionRefused(TunixError):
    """The gate does not allow this version to take this alias."""

    status = HTTPStatus.FORBIDDEN


class EngineMissing(TunixError):
    """The asked training engine is not installed here; the message holds the install command."""

    status = HTTPStatus.NOT_IMPLEMENTED


class OwnershipLost(TunixError):
    """The job has another claim by now. Whoever gets this stops at once and writes nothing."""

    status = HTTPStatus.CONFLICT


class Overloaded(TunixError):
    """More waits than is allowed to; the same call works once some of it is done."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    retryable = True


class Unavailable(TunixError):
    """Something that we depend on is away; the same call may work later."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    retryable = True
