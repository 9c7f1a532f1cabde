"""The training loop: a generator of what happened, step by step.

The device is kept busy: batches are made ahead of it on another thread, and the numbers of a step are fetched only
after the next one has been dispatched, except where something is due that needs the state of exactly its step.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from tunix_rt_common.specs import TrainSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine import batches
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.prefetch import prefetched
from tunix_rt_trainer.engine.progress import Dispatched, Progress, StepInfo
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.engine.step import train_step
from tunix_rt_trainer.engine.validation import validation_loss


@dataclass(frozen=True)
class Hook:
    """`run(info, state)` after every `every`-th step and after the last one, or as soon as `when()` holds.

    The state is valid during the call only. A hook ends the run by raising: its exception reaches whoever iterates.
    """

    run: Callable[[StepInfo, TrainState], None]
    every: int | None = None
    when: Callable[[], bool] | None = None

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether to run after this step."""
        at_its_time = self.every is not None and _is_due(self.every, step, total_steps)
        return at_its_time or (self.when is not None and self.when())


@dataclass(frozen=True)
class TrainingData:
    """The splits that training reads; without a validation split no validation loss is reported."""

    train: EncodedRows
    validation: EncodedRows | None = None

    def map(self, change: Callable[[EncodedRows], EncodedRows]) -> "TrainingData":
        """The same splits, changed."""
        return TrainingData(change(self.train), self.validation and change(self.validation))


def train(
    config: ModelConfig,
    spec: TrainSpec,
    state: TrainState,
    data: TrainingData,
    save: Callable[[StepInfo, TrainState], None],
    hooks: Sequence[Hook] = (),
) -> Generator[StepInfo, None, TrainState]:
    """Train from `state.step` to the end of the run; yields every step once, in order, and returns the last state.

    A run that starts at step 0 first yields the validation loss of the untrained model. After a step come validation
    (each `spec.validate_every`), `save` (each `spec.checkpoint_every`) and the hooks, then it is yielded; after the
    last step all of them are due. `state` is donated.

    Raises:
        UnusableData: a loss or a gradient is not finite. Nothing has been saved since it became so.
    """
    total_steps = batches.total_steps(spec, data.train.examples)
    finished = int(state.step)
    progress = Progress(spec, data.train, total_steps, last_saved=finished)
    hooks = (_noted(save, spec.checkpoint_every, progress), *hooks)
    if data.validation and finished == 0:
        yield progress.untrained(validation_loss(config, spec, state, data.validation))
    running: Dispatched | None = None
    steps = range(finished + 1, total_steps + 1)
    ahead = prefetched(lambda step: batches.training_batch(data.train, spec, step - 1), steps)
    with closing(ahead) as made:
        for step, batch in zip(steps, made, strict=True):
            state, metrics = train_step(config, spec, total_steps, state, batch)
            if running:
                yield progress.read(running)
            running = Dispatched(step, batch, metrics)
            due = [hook for hook in hooks if hook.is_due(step, total_steps)]
            held_out = data.validation if _is_due(spec.validate_every, step, total_steps) else None
            if due or held_out:
                info, running = progress.read(running), None
                if held_out:
                    info = replace(info, validation_loss=validation_loss(config, spec, state, held_out))
                for hook in due:
                    hook.run(info, state)
                yield info
                progress.stopwatch.skip_pause()
    return state


def _is_due(every: int, step: int, total_steps: int) -> bool:
    return step % every == 0 or step == total_steps


def _noted(save: Callable[[StepInfo, TrainState], None], every: int, progress: Progress) -> Hook:
    def run(info: StepInfo, state: TrainState) -> None:
        save(info, state)
        progress.last_saved = info.step

    return Hook(run, every)
