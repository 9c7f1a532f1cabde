"""`python -m tunix_rt_trainer.job`: one training attempt, in a process of its own.

Here training and the platform meet: inputs come from the store, checkpoints and the final model go back to it, and the
supervisor hears how it goes.
"""

import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import jax

from tunix_rt_common import telemetry
from tunix_rt_common.child import Child, ToldToLeave, run_child
from tunix_rt_common.db.models import MetricRecord, RunRecord
from tunix_rt_common.specs import RunSpec
from tunix_rt_common.storage.bundle import put_folder
from tunix_rt_trainer import training
from tunix_rt_trainer.encoding import encode_splits
from tunix_rt_trainer.engine.checkpoints import Inputs
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.handover import Handover
from tunix_rt_trainer.inputs import Description, Weights
from tunix_rt_trainer.pinnedinputs import Pins, describe_pinned, load_pinned_weights
from tunix_rt_trainer.preflight import refuse_what_does_not_fit
from tunix_rt_trainer.publishing import CheckpointPublisher
from tunix_rt_trainer.saving import CheckpointSaver
from tunix_rt_trainer.tokencache import TokenCache
from tunix_rt_trainer.training import Trained
from tunix_rt_trainer.tunixengine import fit as tunixengine

MODEL_FOLDER = "model"
OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"


def train_run(child: Child) -> dict[str, Any]:
    """Train the claimed run to its end; where the model is stored, and what was measured."""
    with child.database.reading() as session:
        run = session.get_one(RunRecord, child.claim.run_id)
        spec, pins = RunSpec.model_validate(run.spec).train, run.pins
    scratch = _fresh_scratch(child)
    fit = _fit_by_tunix if spec.engine == "tunix" else _fit
    try:
        with telemetry.span("data"):
            described = describe_pinned(child.store, spec, pins, scratch)
            data = encode_splits(child, described, TokenCache(child.settings.tokens_dir))
        trained = fit(child, described, data, pins, scratch)
        with telemetry.span("store"):
            manifest_sha256 = child.store.put_document(put_folder(child.store, scratch / MODEL_FOLDER))
        return {
            "manifest_sha256": manifest_sha256,
            "parameters": trained.parameters,
            "environment": trained.environment,
            "metrics": _measured(child, trained.numbers),
        }
    except jax.errors.JaxRuntimeError as error:
        raise (MemoryError(OUT_OF_MEMORY) if OUT_OF_MEMORY in str(error) else error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fit(child: Child, described: Description, data: TrainingData, pins: Pins, scratch: Path) -> Trained:
    with telemetry.span("preflight"):
        refuse_what_does_not_fit(child, described, data)
    weights = _weights(child, described, pins, scratch)
    keeper = PublishedCheckpoints(child, scratch, described.spec.seed, described.digests)
    return training.fit(child, described, weights, data, scratch / MODEL_FOLDER, keeper)


def _fit_by_tunix(child: Child, described: Description, data: TrainingData, pins: Pins, scratch: Path) -> Trained:
    """Devices are left to google-tunix's process."""
    jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    weights = _weights(child, described, pins, scratch)
    python = str(child.settings.tunix_python or sys.executable)
    return tunixengine.fit(child, described, weights, data, scratch / MODEL_FOLDER, python=python, leave=_leave)


def _weights(child: Child, described: Description, pins: Pins, scratch: Path) -> Weights:
    with telemetry.span("weights"):
        weights = load_pinned_weights(child.store, described, pins, scratch)
    child.progress(0)
    return weights


def _leave() -> NoReturn:
    raise ToldToLeave


class PublishedCheckpoints:
    """Checkpoints go to this machine's disk, and from there to the store and the database."""

    def __init__(self, child: Child, scratch: Path, seed: int, inputs: Inputs) -> None:
        self._publisher = CheckpointPublisher(child, scratch, inputs)
        self._saver = CheckpointSaver(child, scratch, seed, inputs)
        self._handover = Handover(child, self._publisher)

    @property
    def is_waiting(self) -> bool:
        """Whether a checkpoint is not published yet."""
        return self._handover.is_waiting

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest published state that is whole."""
        return self._publisher.restore(like)

    def keep(self, info: StepInfo, snapshot: TrainState) -> None:
        """Save, then publish."""
        with telemetry.span("checkpoint", step=info.step):
            self._handover.add(self._saver.save(info, snapshot))

    def poll(self) -> None:
        """Try again to publish what waits."""
        self._handover.poll()

    def drain(self) -> None:
        """Wait until all are published."""
        self._handover.drain()

    def leave(self) -> NoReturn:
        """Publish what can be, and go."""
        self._handover.leave()


def _fresh_scratch(child: Child) -> Path:
    """A folder for this attempt alone; what earlier attempts left behind goes."""
    runs = child.settings.scratch_dir / "runs" / str(child.claim.run_id)
    shutil.rmtree(runs, ignore_errors=True)
    scratch = runs / f"fence-{child.claim.fence}"
    scratch.mkdir(parents=True)
    return scratch


def _measured(child: Child, last: dict[str, Any]) -> dict[str, Any]:
    """The numbers that a version is registered with; losses in nats per trained token or pair."""
    with child.database.reading() as session:
        untrained = session.get(MetricRecord, (child.claim.run_id, 0))
        base_loss = untrained.numbers.get("validation_loss") if untrained else None
    return {
        "steps": last.get("step"),
        "train_loss": last.get("loss"),
        "validation_loss": last.get("validation_loss"),
        "base_validation_loss": base_loss,
        **last.get("measures", {}),
    }


if __name__ == "__main__":
    sys.exit(run_child(train_run))
