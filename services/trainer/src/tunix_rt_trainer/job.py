"""`python -m tunix_rt_trainer.job`: one training attempt, in a process of its own.

Here compute and I/O meet: inputs come from the store, the engine turns them into steps, checkpoints and the final
model go back to the store.
"""

import logging
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax

from tunix_rt_common import telemetry
from tunix_rt_common.child import Child, ToldToLeave, run_child
from tunix_rt_common.db.models import MetricRecord, RunRecord
from tunix_rt_common.peft import ADAPTER_FOLDER
from tunix_rt_common.specs import DpoSpec, RunSpec
from tunix_rt_common.storage.bundle import put_folder
from tunix_rt_modeling import huggingface, lora
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.transformer import parameter_count
from tunix_rt_trainer.beside import BesideTraining
from tunix_rt_trainer.encoding import encode_splits
from tunix_rt_trainer.engine import checkpoints, loop, state
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.loop import Hook, TrainingData
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.engine.reference import with_reference
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.handover import Handover
from tunix_rt_trainer.inputs import Description, Weights, describe_inputs, load_weights
from tunix_rt_trainer.preflight import refuse_what_does_not_fit
from tunix_rt_trainer.publishing import CheckpointPublisher
from tunix_rt_trainer.saving import CheckpointSaver

logger = logging.getLogger(__name__)

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
LOG_LINES = 20


def train_run(child: Child) -> dict[str, Any]:
    """Train the claimed run to its end; where the model is stored, and what was measured."""
    with child.database.reading() as session:
        run = session.get_one(RunRecord, child.claim.run_id)
        spec, pins = RunSpec.model_validate(run.spec), run.pins
    scratch = _fresh_scratch(child)
    try:
        with telemetry.span("data"):
            described = describe_inputs(child.store, spec, pins, scratch)
            data = encode_splits(child, described)
        with telemetry.span("preflight"):
            refuse_what_does_not_fit(child, described, data)
        with telemetry.span("weights"):
            weights = load_weights(child.store, described, pins, scratch)
        child.progress(0)
        finished, measured = _train(child, described, weights, data, scratch)
        with telemetry.span("export"):
            return _export(child, described, finished, scratch) | {"metrics": measured}
    except jax.errors.JaxRuntimeError as error:
        raise (MemoryError(OUT_OF_MEMORY) if OUT_OF_MEMORY in str(error) else error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fresh_scratch(child: Child) -> Path:
    """A folder for this attempt alone; what earlier attempts left behind goes."""
    runs = child.settings.scratch_dir / "runs" / str(child.claim.run_id)
    shutil.rmtree(runs, ignore_errors=True)
    scratch = runs / f"fence-{child.claim.fence}"
    scratch.mkdir(parents=True)
    return scratch


def _train(
    child: Child, described: Description, weights: Weights, data: TrainingData, scratch: Path
) -> tuple[TrainState, dict[str, Any]]:
    spec = described.spec
    config = on_device(described.config, spec)
    publisher = CheckpointPublisher(child, scratch, described.digests)
    saver, handover = CheckpointSaver(child, scratch, spec.seed, described.digests), Handover(child, publisher)
    started = state.init(config, spec, weights.params, adapter=weights.adapter, teacher=weights.teacher)
    if isinstance(spec, DpoSpec):
        data = _with_reference(child, config, spec, started, data)
    with telemetry.span("restore"):
        current = publisher.restore(started) or started

    beside = BesideTraining("checkpoints", child.waits)

    def keep(info: StepInfo, snapshot: TrainState) -> None:
        with telemetry.span("checkpoint", step=info.step):
            handover.add(saver.save(info, snapshot))

    def save(info: StepInfo, current: TrainState) -> None:
        beside.start(partial(keep, info, checkpoints.snapshot(current)))

    def leave(info: StepInfo, current: TrainState) -> None:
        save(info, current)
        beside.finish()
        handover.leave()

    def publish() -> None:
        if handover.is_waiting and beside.is_free():
            beside.start(handover.poll)

    steps = loop.train(config, spec, current, data, save, hooks=(Hook(run=leave, when=child.leaving.is_set),))
    finished, last = _follow(child, steps, publish)
    beside.start(handover.drain)
    beside.finish()
    return finished, _measured(child, last)


def _with_reference(
    child: Child, config: ModelConfig, spec: DpoSpec, started: TrainState, data: TrainingData
) -> TrainingData:
    def between() -> None:
        child.waits()
        if child.leaving.is_set():
            raise ToldToLeave

    with telemetry.span("reference"):
        return data.map(lambda rows: with_reference(config, spec, started.params, rows, between))


def _follow(
    child: Child, steps: Generator[StepInfo, None, TrainState], between: Callable[[], None]
) -> tuple[TrainState, dict[str, Any]]:
    """Report every step; the last state and the newest numbers. Two spans, since the first step compiles."""
    last: dict[str, Any] = {}
    tokens = 0
    with ExitStack() as phase:
        phase.enter_context(telemetry.span("compile"))
        while True:
            try:
                info = next(steps)
            except StopIteration as end:
                telemetry.annotate(last_step=last.get("step"), tokens=tokens)
                return end.value, last
            _report(child, info)
            between()
            if info.loss is not None and "loss" not in last:
                phase.close()
                phase.enter_context(telemetry.span("steps", first_step=info.step + 1, total_steps=info.total_steps))
            last |= {name: value for name, value in vars(info).items() if value is not None}
            tokens += info.tokens


def _report(child: Child, info: StepInfo) -> None:
    """Every step to the supervisor; a line in the logs for about every twentieth part of the run."""
    if info.validation_loss is not None or info.step % max(1, info.total_steps // LOG_LINES) == 0:
        logger.info("%s", _line(info))
    child.progress(
        info.step,
        info.total_steps,
        loss=info.loss,
        learning_rate=info.learning_rate,
        gradient_norm=info.gradient_norm,
        tokens_per_s=info.tokens_per_s,
        eta_s=info.eta_s,
        validation_loss=info.validation_loss,
        **info.measures,
    )


def _line(info: StepInfo) -> str:
    numbers = (
        ("loss {:.4f}", info.loss),
        ("validation loss {:.4f}", info.validation_loss),
        ("gradient norm {:.3g}", info.gradient_norm),
        ("learning rate {:.3g}", info.learning_rate),
        ("{:,.0f} tokens/s", info.tokens_per_s),
        ("{:.0f} s left", info.eta_s),
    )
    told = [text.format(number) for text, number in numbers if number is not None]
    told += [f"{name.replace('_', ' ')} {number:.4g}" for name, number in info.measures.items()]
    return f"step {info.step}/{info.total_steps}: " + ", ".join(told)


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


def _export(child: Child, described: Description, finished: TrainState, scratch: Path) -> dict[str, Any]:
    """Store the trained model as a Hugging Face directory: an adapter merged into it, and beside that by itself."""
    config, params, adapted = described.config, finished.params, described.spec.lora
    folder = scratch / "model"
    if adapted and finished.lora is not None:
        params = lora.merge(config, params, finished.lora, lora.scale(adapted))
        lora.write_peft(folder / ADAPTER_FOLDER, config, finished.lora, adapted, described.base_name)
    huggingface.save(folder, config, params, described.tokenizer)
    return {
        "manifest_sha256": child.store.put_document(put_folder(child.store, folder)),
        "parameters": parameter_count(params),
        "environment": {
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "python": sys.version.split()[0],
        },
    }


if __name__ == "__main__":
    sys.exit(run_child(train_run))
