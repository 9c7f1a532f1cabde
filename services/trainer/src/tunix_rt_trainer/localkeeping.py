"""What a run leaves on this machine as it goes, where no platform keeps it: its checkpoints, and what it measured."""

import shutil
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from tunix_rt_common.runbundle import Metric, file_sha256
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_trainer.engine import checkpoints, processes
from tunix_rt_trainer.engine.checkpoints import Inputs
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.saving import CheckpointSaver
from tunix_rt_trainer.voice import Voice

NEWEST = 2


class Interrupted(Exception):
    """Told to leave, and what there was is kept: starting again goes on from there."""


class LocalCheckpoints:
    """The newest checkpoints of one run, in a folder of their own.

    A checkpoint is there when the list of its files is (`step-N-1.json` beside `step-N-1/`), which is written last.
    Several processes of one run share the folder; the one that leads looks after it.
    """

    is_waiting = False

    def __init__(self, voice: Voice, folder: Path, seed: int, inputs: Inputs) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._voice = voice
        self._folder = folder
        self._inputs = inputs
        self._saver = CheckpointSaver(voice, folder, seed, inputs)

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest state that is whole; damaged ones, and what a killed process left half-written, are removed.

        Raises:
            InvalidInput: the checkpoints are another run's, or were written by libraries whose numbers may differ.
        """
        name = processes.agreed(self._newest_whole() if processes.leads() else "")
        if not name:
            return None
        state = checkpoints.load(self._folder / name, like, inputs=self._inputs)
        self._voice.story("restored", f"continues from the checkpoint of step {_step(Path(name))}")
        return state

    def keep(self, info: StepInfo, snapshot: TrainState) -> None:
        """Save, list, and remove what is too old."""
        saved = self._saver.save(info, snapshot)
        if not processes.leads():
            return
        partial = saved.folder.with_suffix(".partial")
        partial.write_text(FolderManifest(files=saved.files).model_dump_json())
        partial.replace(saved.folder.with_suffix(".json"))
        for listing in self._newest_first()[NEWEST:]:
            self._remove(listing)

    def poll(self) -> None:
        """Nothing waits."""

    def drain(self) -> None:
        """Nothing waits."""

    def leave(self) -> NoReturn:
        """Go; what was saved is kept."""
        raise Interrupted

    def _newest_whole(self) -> str:
        """The name of its folder; "" where there is none."""
        self._remove_unlisted()
        for listing in self._newest_first():
            if self._is_whole(listing):
                return listing.stem
            self._voice.story("restore_failed", f"the checkpoint of step {_step(listing)} is damaged: it is dropped")
            self._remove(listing)
        return ""

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.json"), key=_step, reverse=True)

    def _is_whole(self, listing: Path) -> bool:
        folder = listing.with_suffix("")
        try:
            files = FolderManifest.model_validate_json(listing.read_bytes()).files
            return all(file_sha256(folder / entry.path) == entry.sha256 for entry in files)
        except (OSError, ValidationError):
            return False

    def _remove(self, listing: Path) -> None:
        listing.unlink(missing_ok=True)
        shutil.rmtree(listing.with_suffix(""), ignore_errors=True)

    def _remove_unlisted(self) -> None:
        for folder in self._folder.iterdir():
            if folder.is_dir() and not folder.with_suffix(".json").exists():
                shutil.rmtree(folder, ignore_errors=True)


class MetricsFile:
    """A line for each step. A step that is measured again, after a restart, replaces what was from it on."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path = path
        self._known: list[tuple[int, int]] = []
        self._read()

    def add(self, step: int, numbers: dict[str, float | None]) -> None:
        """Write down a step's numbers."""
        while self._known and self._known[-1][0] >= step:
            self._cut(self._known.pop()[1])
        with self._path.open("ab") as file:
            self._known.append((step, file.tell()))
            file.write(Metric(step=step, numbers=numbers).model_dump_json().encode() + b"\n")

    def _read(self) -> None:
        """Find where each step's line begins; a line that was cut short ends the file."""
        offset = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            try:
                step = Metric.model_validate_json(line).step
            except ValidationError:
                break
            if not line.endswith(b"\n"):
                break
            self._known.append((step, offset))
            offset += len(line)
        self._cut(offset)

    def _cut(self, offset: int) -> None:
        with self._path.open("rb+") as file:
            file.truncate(offset)


def _step(listing: Path) -> int:
    return int(listing.name.split("-")[1])
