"""What a checkpoint costs the training loop, in steps: the loop with and without, in turns."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import jax
from comparison import DATA
from measurement import Measurement, record, show
from training_work import CONFIG, SPEC, encoded_rows

from tunix_rt_modeling.transformer import init_params
from tunix_rt_trainer.beside import BesideTraining
from tunix_rt_trainer.engine import checkpoints, loop, state
from tunix_rt_trainer.engine.checkpoints import Inputs
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.engine.state import TrainState

EVERY = 8
TURNS = 7
INPUTS = Inputs(spec_sha256="0", dataset_sha256="0", tokenizer_sha256="0", base_model_sha256="0")


def measure_stall(data: Path) -> list[Measurement]:
    """Windows of `EVERY` steps, of which every second one begins with a checkpoint."""
    rows = TrainingData(encoded_rows(data))
    spec = SPEC.model_copy(update={"checkpoint_every": 2 * EVERY})
    started = state.init(CONFIG, spec, init_params(CONFIG, jax.random.key(0)))
    beside, snapshots_s = BesideTraining("checkpoints", lambda: None), list[float]()
    with tempfile.TemporaryDirectory() as folder:

        def save(info: StepInfo, current: TrainState) -> None:
            began_s = time.perf_counter()
            copied = checkpoints.snapshot(current)
            beside.start(_writing(copied, Path(folder) / str(info.step)))
            snapshots_s.append(time.perf_counter() - began_s)

        steps = loop.train(CONFIG, spec, started, rows, save)
        for _ in islice(steps, 2 * EVERY - 1):
            pass
        windows_s = [_seconds(steps) for _ in range(2 * TURNS)]
        beside.finish()
    with_one, without = median(windows_s[0::2]), median(windows_s[1::2])
    step_s = without / EVERY
    return [
        Measurement("a checkpoint, beside training", "s", with_one - without, step_s, "one step"),
        Measurement("a checkpoint, the loop standing still", "s", median(snapshots_s), step_s, "one step"),
    ]


def _writing(copied: TrainState, folder: Path) -> Callable[[], None]:
    def write() -> None:
        checkpoints.save(copied, folder, seed=0, inputs=INPUTS)

    return write


def _seconds(steps: Iterator[StepInfo]) -> float:
    began_s = time.perf_counter()
    for _ in islice(steps, EVERY):
        pass
    return time.perf_counter() - began_s


if __name__ == "__main__":
    measured = measure_stall(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
    record(measured)
    show(measured)
