"""What goes on beside training: one call at a time, on a thread of its own."""

import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

POLL_S = 1.0


class BesideTraining:
    """Used by the training thread alone. What a call raises reaches the next one who starts or awaits a call."""

    def __init__(self, name: str, waiting: Callable[[], None]) -> None:
        """`waiting` is called again and again while the training thread stands still for a call to end."""
        self._thread = ThreadPoolExecutor(1, name)
        self._waiting = waiting
        self._call: Future[None] | None = None

    def start(self, call: Callable[[], None]) -> None:
        """Await the call before it, then let this one run; spans and log lines in it belong where they would here."""
        self.finish()
        self._call = self._thread.submit(contextvars.copy_context().run, call)

    def is_free(self) -> bool:
        """Whether a call would start at once."""
        return self._call is None or self._call.done()

    def finish(self) -> None:
        """Await the call under way."""
        if self._call:
            while not self._call.done():
                if wait([self._call], POLL_S).not_done:
                    self._waiting()
            call, self._call = self._call, None
            call.result()
