"""Checkpoints: a state in a local directory, whole or not at all, restored bit for bit.

DIRECTORY/state/…            what changes between steps, by Orbax; a frozen base and a teacher are not stored
DIRECTORY/checkpoint.json    whose it is and what wrote it; written last, so a directory without it is no checkpoint
"""

import os
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from pydantic import BaseModel, ConfigDict, ValidationError

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import TrainSpec
from tunix_rt_common.traces import canonical_json
from tunix_rt_trainer.engine.state import TrainState

STATE_FOLDER = "state"
METADATA_FILE = "checkpoint.json"
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Inputs(_Record):
    """Hex sha256 digests of all that a run reads. A checkpoint continues only the run with the same inputs.

    That of the base model is over the teacher and the adapter too, in a run that has them.
    """

    spec_sha256: str
    dataset_sha256: str
    tokenizer_sha256: str
    base_model_sha256: str


class CheckpointMetadata(_Record):
    """What `checkpoint.json` holds. (`seed`, `step`) is the data cursor: the next batch follows from them alone."""

    step: int
    seed: int
    inputs: Inputs
    versions: dict[str, str]
    device_kind: str
    xla_flags: str


def spec_sha256(spec: TrainSpec) -> str:
    """Hex sha256 of the spec's canonical JSON."""
    return sha256(canonical_json(spec.model_dump(mode="json"))).hexdigest()


def prepare() -> None:
    """Import the library that writes checkpoints, which takes a while, so that it is there when the first is due."""
    import orbax.checkpoint  # noqa: F401


def snapshot(state: TrainState) -> TrainState:
    """A copy in host memory that later steps leave alone, to be saved beside them; frozen weights stay in place."""
    copied = jax.tree.map(_on_host, _stored(state))
    return TrainState(**{"params": state.params, "lora": state.lora, "teacher": state.teacher} | copied)


def _on_host(leaf: jax.Array) -> jax.Array:
    return jax.device_put(leaf, leaf.sharding.with_memory_kind("pinned_host")) if leaf.ndim else jnp.copy(leaf)


def save(state: TrainState, directory: Path, *, seed: int, inputs: Inputs) -> CheckpointMetadata:
    """Write `state` to `directory`, which must not exist yet; returns when every byte is on the disk.

    Several processes of one run call this together, for a directory that they share; the first of them completes it.
    """
    import orbax.checkpoint as ocp

    directory, is_first = directory.absolute(), jax.process_index() == 0
    if is_first:
        directory.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory / STATE_FOLDER, _stored(state))
    metadata = CheckpointMetadata(
        step=int(state.step),
        seed=seed,
        inputs=inputs,
        versions={library: version(library) for library in LIBRARIES},
        device_kind=jax.devices()[0].device_kind,
        xla_flags=os.environ.get("XLA_FLAGS", ""),
    )
    if is_first:
        (directory / METADATA_FILE).write_text(metadata.model_dump_json(indent=2) + "\n")
        _sync_tree(directory)
    return metadata


def load(directory: Path, like: TrainState, *, inputs: Inputs) -> TrainState:
    """Restore the state that `save` wrote, bit for bit, to where `like` lies: on any mesh, not only that of `save`.

    `like` has the structure and shapes of the state (real arrays or `jax.eval_shape` of them); in a LoRA run its
    `params` are the real frozen weights, and they become those of the result, as a teacher does in any run.

    Raises:
        InvalidInput: no complete checkpoint, other inputs, or an incompatible release of a library.
    """
    import orbax.checkpoint as ocp

    metadata = read_metadata(directory)
    _refuse_other_inputs(metadata.inputs, inputs)
    _refuse_incompatible_libraries(metadata.versions)
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.restore(directory.absolute() / STATE_FOLDER, jax.tree.map(_abstract, _stored(like)))
    return TrainState(**{"params": like.params, "lora": None, "teacher": like.teacher} | stored)


def _abstract(leaf: Any) -> Any:
    return jax.eval_shape(lambda: leaf).update(sharding=getattr(leaf, "sharding", None))


def read_metadata(directory: Path) -> CheckpointMetadata:
    """The metadata of a checkpoint; InvalidInput when the directory does not hold a complete one."""
    file = directory / METADATA_FILE
    try:
        return CheckpointMetadata.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError) as error:
        raise InvalidInput(f"{directory} is no complete checkpoint: resume from an earlier one ({error})") from error


def _stored(state: TrainState) -> dict[str, Any]:
    moved = {"params": state.params} if state.lora is None else {"lora": state.lora}
    return {"step": state.step, "optimizer": state.optimizer, "key": state.key, **moved}


def _refuse_other_inputs(written: Inputs, given: Inputs) -> None:
    differing = [
        name.removesuffix("_sha256") for name in Inputs.model_fields if getattr(written, name) != getattr(given, name)
    ]
    if differing:
        raise InvalidInput(
            f"the checkpoint belongs to another run: its {' and '.join(differing)} differ from this run's. "
            "Resume the run that wrote it, or start this one from step 0"
        )


def _refuse_incompatible_libraries(written: dict[str, str]) -> None:
    for library, was in written.items():
        if _release_line(was) != _release_line(version(library)):
            raise InvalidInput(
                f"the checkpoint was written with {library} {was}, and {version(library)} is installed, whose numbers "
                f"may differ. Install {library} {_release_line(was)}.* to finish this run, or start a new one"
            )


def _release_line(number: str) -> str:
    """The part of a version within which results are meant to stay: the major, and below 1.0 the minor too."""
    major, minor, *_ = number.split(".")
    return f"0.{minor}" if major == "0" else major


def _sync_tree(directory: Path) -> None:
    for path in (directory, *directory.rglob("*"), directory.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
