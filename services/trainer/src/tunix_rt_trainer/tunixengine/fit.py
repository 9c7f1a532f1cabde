"""A run trained by google-tunix: what it cannot compute is refused, all else is told as if our engine had trained."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from tunix_rt_common.engines import check_tunix_spec
from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.specs import TrainSpec
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.transformer import parameter_count
from tunix_rt_trainer.engine import batches, optim
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.progress import Dispatched, Progress, StepInfo
from tunix_rt_trainer.engine.step import StepMetrics
from tunix_rt_trainer.inputs import Description, Weights
from tunix_rt_trainer.training import Trained, numbers_of, tell_step
from tunix_rt_trainer.tunixengine.process import Report, TunixProcess
from tunix_rt_trainer.voice import Voice

FAMILIES = ("llama", "qwen2", "qwen3")


def fit(
    voice: Voice,
    described: Description,
    weights: Weights,
    data: TrainingData,
    folder: Path,
    *,
    python: str,
    leave: Callable[[], NoReturn],
) -> Trained:
    """Train with the google-tunix that `python` imports, and write the model to `folder`.

    Nothing is kept on the way: an attempt that ends early is begun anew, with the same batches. Told to leave, it
    calls `leave`.

    Raises:
        EngineMissing: it is not installed there.
        InvalidInput: the spec or the model asks for what it does not have.
        UnusableData: a loss or a gradient is not finite.
    """
    spec, config = described.spec, described.config
    check_tunix_spec(spec)
    check_tunix_model(config)
    voice.story("no_checkpoints", "engine 'tunix' keeps no checkpoints: an attempt that ends early starts again")
    work = folder.with_name(f"{folder.name}-by-tunix")
    total_steps = batches.total_steps(spec, data.train.examples)
    held_out = list(batches.evaluation_batches(data.validation, spec.batch_size)) if data.validation else []
    heard = Heard(voice, Sent(held_out, data, spec, total_steps), Progress(spec, data.train, total_steps, last_saved=0))
    try:
        huggingface.save(work / "base", config, weights.params, described.tokenizer)
        _write_request(work, spec, config, total_steps, len(held_out))
        with voice.span("steps", total_steps=total_steps), TunixProcess(python, work, iter(heard.sent)) as process:
            heard.follow(process.reports(), leave)
        with voice.span("export"):
            shutil.move(work / "trained.safetensors", work / "base" / "model.safetensors")
            params = huggingface.load_params(work / "base", config)
            huggingface.save(folder, config, params, described.tokenizer)
        return Trained(parameter_count(params), heard.environment, heard.numbers)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_tunix_model(config: ModelConfig) -> None:
    """Refuse what google-tunix would compute otherwise, or not at all, by the field of config.json.

    Raises:
        UnusableModel: another family, or a trait of these that it leaves out.
    """
    if config.family not in FAMILIES:
        raise _unfit(f"model_type {config.family!r}", f"train one of {', '.join(FAMILIES)}")
    left_out = {
        "rope_scaling": config.rope.scaling is not None,
        "a sliding_window": any(config.sliding_layers),
        "attention_bias": config.output_bias or (config.qkv_bias and config.family != "qwen2"),
        "mlp_bias": config.mlp_bias,
        "hidden_act gelu": config.activation != "silu",
    }
    if found := next((field for field, is_set in left_out.items() if is_set), None):
        raise _unfit(found, "train a model without it")


class Sent:
    """The batches in the order in which they go out; those of steps that were not reported yet are kept."""

    def __init__(self, held_out: list[Batch], data: TrainingData, spec: TrainSpec, total_steps: int) -> None:
        self._held_out = held_out
        self._data, self._spec, self._total_steps = data, spec, total_steps
        self._open: dict[int, Batch] = {}
        self._changing = threading.Lock()

    def __iter__(self) -> Iterator[Batch]:
        yield from self._held_out
        for step in range(1, self._total_steps + 1):
            split = batches.training_batch(self._data.train, self._spec, step - 1)
            batch = Batch(split.token_ids[0], split.loss_weights[0], split.segments[0])
            with self._changing:
                self._open[step] = batch
            yield batch

    def take(self, step: int) -> Batch:
        """The batch of a step that is done."""
        with self._changing:
            return self._open.pop(step)


class Heard:
    """What its process says, told as if our engine had trained."""

    def __init__(self, voice: Voice, sent: Sent, progress: Progress) -> None:
        self.sent = sent
        self.environment: dict[str, str] = {}
        self.numbers: dict[str, Any] = {}
        self._voice, self._progress = voice, progress
        self._rate = optim.learning_rate(progress.spec.optimizer, progress.total_steps)
        self._validated: dict[int, float] = {}

    def follow(self, reports: Iterator[Report | None], leave: Callable[[], NoReturn]) -> None:
        """Hear all; a step's validation loss comes before the step itself."""
        for said in reports:
            if self._voice.leaving.is_set():
                leave()
            if said is None:
                self._voice.waits()
            elif "environment" in said:
                self.environment = said["environment"]
            elif "validation_loss" not in said:
                self._tell(self._read(said))
            elif said["step"] == 0:
                self._tell(self._progress.untrained(said["validation_loss"]))
            else:
                self._validated[said["step"]] = said["validation_loss"]

    def _tell(self, info: StepInfo) -> None:
        tell_step(self._voice, info)
        self.numbers |= numbers_of(info)

    def _read(self, said: Report) -> StepInfo:
        step = said["step"]
        metrics = StepMetrics(
            loss=jnp.float32(said["loss"]),
            gradient_norm=jnp.float32(said["gradient_norm"]),
            learning_rate=self._rate(step - 1),
            measures={},
        )
        info = self._progress.read(Dispatched(step, self.sent.take(step), metrics))
        return replace(info, validation_loss=self._validated.pop(step, None))


def _write_request(work: Path, spec: TrainSpec, config: ModelConfig, total_steps: int, validation_batches: int) -> None:
    """The rate of each step, and what else to know beside the base."""
    rate = optim.learning_rate(spec.optimizer, total_steps)
    np.save(work / "rates.npy", np.array([rate(step) for step in range(total_steps)], np.float32))
    request = {
        "total_steps": total_steps,
        "validate_every": spec.validate_every,
        "validation_batches": validation_batches,
        "optimizer": spec.optimizer.model_dump(include={"beta1", "beta2", "epsilon", "weight_decay", "clip_norm"}),
        "model": {
            "family": config.family,
            "tied": config.tie_embeddings,
            "remat": spec.remat == "full",
            "sizes": {
                "num_layers": config.num_layers,
                "vocab_size": config.vocab_size,
                "embed_dim": config.hidden_size,
                "hidden_dim": config.intermediate_size,
                "num_heads": config.num_heads,
                "head_dim": config.head_dim,
                "num_kv_heads": config.num_kv_heads,
                "rope_theta": config.rope.theta,
                "norm_eps": config.rms_norm_eps,
            },
        },
    }
    (work / "request.json").write_text(json.dumps(request))


def _unfit(what: str, remedy: str) -> UnusableModel:
    return UnusableModel(
        f"engine 'tunix' does not compute {what} as the model has it: use engine 'jax', or {remedy}", field="base_model"
    )
