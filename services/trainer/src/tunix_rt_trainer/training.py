"""Training, from what was read to a model directory: the same in a job's child as without any service beside it.

Where inputs come from, where checkpoints go and who listens is for the caller to say.
"""

import logging
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

import jax

from tunix_rt_common.peft import ADAPTER_FOLDER
from tunix_rt_common.specs import DpoSpec
from tunix_rt_modeling import huggingface, lora
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.transformer import parameter_count
from tunix_rt_trainer.beside import BesideTraining
from tunix_rt_trainer.engine import checkpoints, loop, processes, state
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.loop import Hook, TrainingData
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.engine.reference import with_reference
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.inputs import Description, Weights
from tunix_rt_trainer.voice import Voice

logger = logging.getLogger(__name__)

LOG_LINES = 20


class Keeper(Protocol):
    """Where the checkpoints of a run go. `keep`, `poll` and `drain` are called beside training, one at a time."""

    @property
    def is_waiting(self) -> bool:
        """Whether `poll` has something to do."""

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest state that is whole; None when the run starts at its beginning."""

    def keep(self, info: StepInfo, snapshot: TrainState) -> None:
        """Keep a state; `info` is of its step."""

    def poll(self) -> None:
        """Go on with what is not kept for good yet, without waiting."""

    def drain(self) -> None:
        """After the last step: wait until all is kept."""

    def leave(self) -> NoReturn:
        """Told to leave, with the last state kept: raise."""


@dataclass(frozen=True)
class Trained:
    """What is known of a model that was trained; `numbers` are the newest by their name in `StepInfo`."""

    parameters: int
    environment: dict[str, str]
    numbers: dict[str, Any]


def fit(
    voice: Voice, described: Description, weights: Weights, data: TrainingData, folder: Path, keeper: Keeper
) -> Trained:
    """Train to the end, from the newest checkpoint, and write the model to `folder`.

    Raises what `loop.train` and the keeper do; told to leave, it keeps a checkpoint first.
    """
    finished, numbers = _train(voice, described, weights, data, keeper)
    with voice.span("export"):
        return Trained(_export(folder, described, finished), environment(), numbers)


def environment() -> dict[str, str]:
    """On what this process trains."""
    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "python": sys.version.split()[0]}


def numbers_of(info: StepInfo) -> dict[str, Any]:
    """The numbers of a step by name, those that it does not have left out."""
    return {name: value for name, value in vars(info).items() if value is not None}


def tell_step(voice: Voice, info: StepInfo) -> None:
    """Every step to who listens; a line in the logs for about every twentieth part of the run."""
    if info.validation_loss is not None or info.step % max(1, info.total_steps // LOG_LINES) == 0:
        logger.info("%s", _line(info))
    voice.progress(
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


def _train(
    voice: Voice, described: Description, weights: Weights, data: TrainingData, keeper: Keeper
) -> tuple[TrainState, dict[str, Any]]:
    spec = described.spec
    config = on_device(described.config, spec)
    started = state.init(config, spec, weights.params, adapter=weights.adapter, teacher=weights.teacher)
    if isinstance(spec, DpoSpec):
        data = _with_reference(voice, config, spec, started, data, keeper)
    with voice.span("restore"):
        current = keeper.restore(started) or started
    beside = BesideTraining("checkpoints", voice.waits)
    beside.start(checkpoints.prepare)

    def save(info: StepInfo, current: TrainState) -> None:
        beside.start(partial(keeper.keep, info, checkpoints.snapshot(current)))
        if processes.are_several():
            beside.finish()  # what processes say to each other for a checkpoint must not mix with a step's

    def leave(info: StepInfo, current: TrainState) -> None:
        tell_step(voice, info)
        save(info, current)
        beside.finish()
        keeper.leave()

    def poll() -> None:
        if keeper.is_waiting and beside.is_free():
            beside.start(keeper.poll)

    steps = loop.train(config, spec, current, data, save, hooks=(Hook(run=leave, when=voice.leaving.is_set),))
    finished, last = _follow(voice, steps, poll)
    beside.start(keeper.drain)
    beside.finish()
    return finished, last


def _follow(
    voice: Voice, steps: Generator[StepInfo, None, TrainState], between: Callable[[], None]
) -> tuple[TrainState, dict[str, Any]]:
    """Report every step; the last state and the newest numbers. Two spans, since the first step compiles."""
    last: dict[str, Any] = {}
    tokens = 0
    with ExitStack() as phase:
        phase.enter_context(voice.span("compile"))
        while True:
            try:
                info = next(steps)
            except StopIteration as end:
                voice.annotate(last_step=last.get("step"), tokens=tokens)
                return end.value, last
            tell_step(voice, info)
            between()
            if info.loss is not None and "loss" not in last:
                phase.close()
                phase.enter_context(voice.span("steps", first_step=info.step + 1, total_steps=info.total_steps))
            last |= numbers_of(info)
            tokens += info.tokens


def _with_reference(
    voice: Voice, config: ModelConfig, spec: DpoSpec, started: TrainState, data: TrainingData, keeper: Keeper
) -> TrainingData:
    def between() -> None:
        voice.waits()
        if voice.leaving.is_set():
            keeper.leave()

    with voice.span("reference"):
        return data.map(lambda rows: with_reference(config, spec, started.params, rows, between))


def _export(folder: Path, described: Description, finished: TrainState) -> int:
    """Write a Hugging Face directory, an adapter merged into it and beside that by itself; how many parameters."""
    config, adapted = described.config, described.spec.lora
    params, adapter = processes.whole((finished.params, finished.lora))
    if adapted and adapter is not None:
        params = lora.merge(config, params, adapter, lora.scale(adapted))
    if processes.leads():
        huggingface.save(folder, config, params, described.tokenizer)
        if adapted and adapter is not None:
            lora.write_peft(folder / ADAPTER_FOLDER, config, adapter, adapted, described.base_name)
    return parameter_count(params)


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
