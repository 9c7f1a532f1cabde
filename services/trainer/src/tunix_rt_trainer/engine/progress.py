"""From a dispatched step to the numbers that a person reads, and to the error when they are not numbers."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import TrainSpec
from tunix_rt_trainer.engine.batches import Batch, examples_of_step
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.step import StepMetrics


@dataclass(frozen=True)
class StepInfo:
    """One finished step; or, as step 0, the model before training, of which only the validation loss is known.

    Losses are in nats per trained token, or per pair of answers. `gradient_norm` is before clipping. `tokens` (padding
    excluded), `trained_tokens` and `tokens_per_s` are of this step alone; `elapsed_s` counts from the start or
    resumption. `measures` are what the method measures beside its loss.
    """

    step: int
    total_steps: int
    elapsed_s: float
    loss: float | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    tokens: int = 0
    trained_tokens: int = 0
    tokens_per_s: float | None = None
    eta_s: float | None = None
    validation_loss: float | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Stopwatch:
    """Seconds since the loop began, and per step: without pauses, and without the first step, which compiles."""

    started_s: float = field(default_factory=time.monotonic)
    lap_started_s: float = field(default_factory=time.monotonic)
    laps: int = 0
    compiled_laps_s: float = 0.0

    def elapsed_s(self) -> float:
        """Seconds since the loop began."""
        return time.monotonic() - self.started_s

    def lap(self) -> float:
        """End a step and start the next; returns the seconds that it took."""
        now = time.monotonic()
        lap_s, self.lap_started_s = now - self.lap_started_s, now
        self.compiled_laps_s += lap_s if self.laps else 0.0
        self.laps += 1
        return lap_s

    def skip_pause(self) -> None:
        """Leave the time since the last lap (validation, checkpoints, hooks) out of the next one."""
        self.lap_started_s = time.monotonic()

    def eta_s(self, remaining_steps: int) -> float | None:
        """Expected seconds of `remaining_steps`; None while only the first step has been timed."""
        return remaining_steps * self.compiled_laps_s / (self.laps - 1) if self.laps > 1 else None


@dataclass(frozen=True)
class Dispatched:
    """A step that the device may still be computing."""

    step: int
    batch: Batch
    metrics: StepMetrics


@dataclass
class Progress:
    """Reads dispatched steps and keeps the time. `last_saved` is the step of the newest checkpoint, 0 for none."""

    spec: TrainSpec
    rows: EncodedRows
    total_steps: int
    last_saved: int
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    def read(self, dispatched: Dispatched) -> StepInfo:
        """Wait for the step and describe it.

        Raises:
            UnusableData: its loss or its gradient is not finite.
        """
        loss, gradient_norm = float(dispatched.metrics.loss), float(dispatched.metrics.gradient_norm)
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            raise self._diverged(dispatched.step, f"loss {loss}, gradient norm {gradient_norm}")
        step_s = self.stopwatch.lap()
        tokens = int((dispatched.batch.segments > 0).sum())
        return StepInfo(
            step=dispatched.step,
            total_steps=self.total_steps,
            elapsed_s=self.stopwatch.elapsed_s(),
            loss=loss,
            learning_rate=float(dispatched.metrics.learning_rate),
            gradient_norm=gradient_norm,
            tokens=tokens,
            trained_tokens=int((dispatched.batch.loss_weights > 0).sum()),
            tokens_per_s=tokens / step_s,
            eta_s=self.stopwatch.eta_s(self.total_steps - dispatched.step),
            measures={name: float(measure) for name, measure in dispatched.metrics.measures.items()},
        )

    def untrained(self, validation_loss: float) -> StepInfo:
        """The entry of step 0."""
        self.stopwatch.skip_pause()
        return StepInfo(0, self.total_steps, self.stopwatch.elapsed_s(), validation_loss=validation_loss)

    def _diverged(self, step: int, numbers: str) -> UnusableData:
        rows = self.rows
        chosen = rows.sequences(examples_of_step(self.spec.seed, step - 1, self.spec.batch_size, rows.examples))
        row_ids = ", ".join(dict.fromkeys(rows.row_ids[row] for pack in chosen for row in rows.packs[pack]))
        kept = f"the last checkpoint is of step {self.last_saved}" if self.last_saved else "there is no checkpoint yet"
        return UnusableData(
            f"training diverged at step {step} ({numbers}); {kept}. Lower the learning rate, lengthen the warm-up, "
            f"or look for broken text in the rows of this batch: {row_ids}"
        )
