"""From the device to a folder on this machine's disk: a checkpoint that nobody but this attempt knows of yet."""

import errno
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunix_rt_common.errors import Unavailable
from tunix_rt_common.reports import FileEntry
from tunix_rt_trainer.engine import checkpoints, processes
from tunix_rt_trainer.engine.checkpoints import CheckpointMetadata, Inputs
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.voice import Voice

TRIES = 3
PAUSE_S = 1.0
ROOM = 2.5
"""Free space that a save asks for, in sizes of the last checkpoint: the writer is not tidy while it writes."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
TENSORSTORE_ERRNO = re.compile(r"\[os_error_code='(\d+)'\]")


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint in a folder, synced to the disk; `files` are what was hashed right after it was written.

    A process that does not lead knows of none.
    """

    step: int
    folder: Path
    files: tuple[FileEntry, ...]
    metadata: CheckpointMetadata
    validation_loss: float | None

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files)


class CheckpointSaver:
    """Saves the states of one attempt. A full disk costs a few tries, and no checkpoint that was there before."""

    def __init__(self, voice: Voice, scratch: Path, seed: int, inputs: Inputs) -> None:
        self._voice = voice
        self._scratch = scratch
        self._seed = seed
        self._inputs = inputs
        self._begun = 0
        self._last_bytes = 0

    def save(self, info: StepInfo, state: TrainState) -> SavedCheckpoint:
        """Write the state to a fresh folder.

        Raises:
            Unavailable: the disk is full, also after a few tries.
        """
        for _ in range(TRIES - 1):
            try:
                return self._save(info, state)
            except Unavailable as error:
                self._voice.story("disk_full", f"checkpoint of step {info.step} is not saved yet: {error}")
                self._voice.leaving.wait(PAUSE_S)
        return self._save(info, state)

    def _save(self, info: StepInfo, state: TrainState) -> SavedCheckpoint:
        self._begun += 1
        folder = self._scratch / f"step-{info.step}-{self._begun}"
        self._need_room()
        try:
            metadata = checkpoints.save(state, folder, seed=self._seed, inputs=self._inputs)
            files = tuple(_hashed(folder)) if processes.leads() else ()
            saved = SavedCheckpoint(info.step, folder, files, metadata, info.validation_loss)
        except (OSError, ValueError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            if _errno(error) not in FULL:
                raise
            raise self._full(str(error)) from error
        self._last_bytes = saved.size_bytes
        return saved

    def _need_room(self) -> None:
        free, needed = shutil.disk_usage(self._scratch).free, int(ROOM * self._last_bytes)
        if free < needed:
            raise self._full(f"{free:,} bytes are free, {needed:,} are needed")

    def _full(self, details: str) -> Unavailable:
        return Unavailable(
            f"the disk of {self._scratch} has no room for a checkpoint ({details}): free some space, or set "
            "TUNIX_RT_HOME to a folder on a larger disk"
        )


def _errno(error: OSError | ValueError) -> int | None:
    """The system's number of an error; Orbax passes on a ValueError of tensorstore's with the number in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = TENSORSTORE_ERRNO.search(str(error))
    return int(found.group(1)) if found else None


def _hashed(folder: Path) -> Iterator[FileEntry]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            yield FileEntry(path=path.relative_to(folder).as_posix(), sha256=sha256, size_bytes=path.stat().st_size)
