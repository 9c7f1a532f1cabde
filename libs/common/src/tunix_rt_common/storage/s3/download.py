"""Reading an object while connections break."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ProtocolError

FRUITLESS_TRIES = 3


class Download(io.RawIOBase):
    """An object's bytes as they arrive. Where the connection breaks, the rest is asked for, from where it broke.

    `ask` requests the object from an offset on, `guard` translates what goes wrong. A server that falls silent is not
    asked again: its time is spent.
    """

    def __init__(
        self,
        response: BaseHTTPResponse,
        ask: Callable[[int], BaseHTTPResponse],
        guard: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._response = response
        self._ask = ask
        self._guard = guard
        self._offset = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the object goes; 0 at its end."""
        view = memoryview(buffer)
        with self._guard():
            chunk = self._persistently(len(view))
        view[: len(chunk)] = chunk
        self._offset += len(chunk)
        return len(chunk)

    def close(self) -> None:
        """Give the connection back, or drop it when bytes are left on it."""
        if not self.closed:
            self._response.close()
        super().close()

    def _persistently(self, size: int) -> bytes:
        for _ in range(FRUITLESS_TRIES):
            try:
                return self._response.read(size)
            except ProtocolError:
                self._response.close()
                self._response = self._ask(self._offset)
        return self._response.read(size)
