"""A stand-in for the training engine: its state is a hash of all steps so far, so that each counts, once, in order.

It has the names and signatures of `tunix_rt_trainer.engine` that publishing needs, and no JAX.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.reports import FileEntry
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_common.traces import canonical_json

HALVES = ("state/first", "state/second")
METADATA_FILE = "checkpoint.json"
MODEL_FILE = "model.txt"


@dataclass(frozen=True)
class TrainState:
    """A run between two steps; `digest` follows from the seed and from every step before this one."""

    step: int
    digest: str

    @property
    def loss(self) -> float:
        """A number in [0, 1) that only this history leads to."""
        return int(self.digest[:8], 16) / 2**32


@dataclass(frozen=True)
class StepInfo:
    """A finished step, as far as saving wants to know."""

    step: int
    validation_loss: float | None = None


class Inputs(BaseModel):
    """What a checkpoint belongs to."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    spec_sha256: str
    dataset_sha256: str
    tokenizer_sha256: str
    base_model_sha256: str


class CheckpointMetadata(BaseModel):
    """Whose checkpoint it is and what wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    step: int
    seed: int
    inputs: Inputs
    versions: dict[str, str] = {"lightengine": "1.0"}
    device_kind: str = "none"
    xla_flags: str = ""


def first_state(seed: int) -> TrainState:
    """Before the first step."""
    return TrainState(0, _sha256(f"seed {seed}"))


def advance(state: TrainState) -> TrainState:
    """One step."""
    return TrainState(state.step + 1, _sha256(f"{state.digest} step {state.step + 1}"))


def history(seed: int, steps: int) -> list[TrainState]:
    """All states of an undisturbed run, the first one included."""
    states = [first_state(seed)]
    while len(states) <= steps:
        states.append(advance(states[-1]))
    return states


def export(state: TrainState, folder: Path) -> None:
    """Write the trained model."""
    folder.mkdir()
    (folder / MODEL_FILE).write_text(state.digest)


def model_sha256(seed: int, steps: int) -> str:
    """The digest of the model directory that an undisturbed run stores."""
    content = history(seed, steps)[-1].digest.encode()
    entry = FileEntry(path=MODEL_FILE, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    return hashlib.sha256(canonical_json(FolderManifest(files=(entry,)).model_dump(mode="json"))).hexdigest()


def save(state: TrainState, directory: Path, *, seed: int, inputs: Inputs) -> CheckpointMetadata:
    """Write the state in two halves, so that files of different steps make another state."""
    (directory / "state").mkdir(parents=True)
    middle = len(state.digest) // 2
    for name, half in zip(HALVES, (state.digest[:middle], state.digest[middle:]), strict=True):
        (directory / name).write_text(half)
    metadata = CheckpointMetadata(step=state.step, seed=seed, inputs=inputs)
    (directory / METADATA_FILE).write_text(metadata.model_dump_json())
    return metadata


def load(directory: Path, like: TrainState, *, inputs: Inputs) -> TrainState:
    """What `save` wrote; `InvalidInput` when it is incomplete or another run's."""
    try:
        metadata = CheckpointMetadata.model_validate_json((directory / METADATA_FILE).read_bytes())
        digest = "".join((directory / name).read_text() for name in HALVES)
    except (FileNotFoundError, ValidationError) as error:
        raise InvalidInput(f"{directory} is no complete checkpoint: {error}") from error
    if metadata.inputs != inputs:
        raise InvalidInput("the checkpoint belongs to another run")
    return TrainState(metadata.step, digest)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
