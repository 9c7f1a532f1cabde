"""What this thread works on and for which service: carried to its spans and log lines without being passed along."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from uuid import UUID


@dataclass(frozen=True)
class Correlation:
    """The ids of the present work; None where there is none."""

    service: str | None = None
    run_id: str | None = None
    job_id: str | None = None


_current: ContextVar[Correlation] = ContextVar("correlation", default=Correlation())  # noqa: B039


def current() -> Correlation:
    """What this thread works on."""
    return _current.get()


@contextmanager
def bound(
    *, service: str | None = None, run_id: UUID | str | None = None, job_id: UUID | str | None = None
) -> Iterator[None]:
    """Work on this for the length of the block; what is not given stays as it was outside."""
    given = {"service": service, "run_id": run_id, "job_id": job_id}
    changes = {name: str(value) for name, value in given.items() if value is not None}
    token = _current.set(replace(_current.get(), **changes))
    try:
        yield
    finally:
        _current.reset(token)
