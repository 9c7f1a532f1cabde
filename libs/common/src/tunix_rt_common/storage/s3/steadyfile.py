"""A file that is read twice, first to name it and then to send it."""

import io
import os
from pathlib import Path

from tunix_rt_common.errors import Conflict


class SteadyFile(io.FileIO):
    """Reads raise `Conflict` once the file has changed since it was opened, so that no name is given to other bytes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path
        self._opened = self._state()

    @property
    def size_bytes(self) -> int:
        """How long the file was when it was opened."""
        return self._opened[0]

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes of the unchanged file."""
        chunk = super().read(size)
        if self._state() != self._opened:
            raise Conflict(f"{self._path} changes while it is being stored: store it when it is complete")
        return chunk or b""

    def _state(self) -> tuple[int, int]:
        state = os.fstat(self.fileno())
        return state.st_size, state.st_mtime_ns
