"""Who hears how training goes: the supervisor of a job, or a person at a terminal."""

import threading
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Voice(Protocol):
    """What training says, and how it is told to leave. Several threads may speak."""

    @property
    def leaving(self) -> threading.Event:
        """Set when training should keep a checkpoint and leave."""

    def progress(self, step: int, total_steps: int | None = None, **numbers: float | None) -> None:
        """Tell what a step measured."""

    def waits(self) -> None:
        """Tell that it waits for something and does not hang."""

    def story(self, kind: str, message: str, **detail: Any) -> None:
        """Tell something in words."""

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[object]:
        """Mark the block as one part of the work, to be timed."""

    def annotate(self, **attributes: Any) -> None:
        """Add to the part under way what became known after it began."""
