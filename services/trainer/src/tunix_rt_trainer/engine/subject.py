"""What is planned, and for what: a run before any of its arrays is made, and devices of a kind."""

from dataclasses import dataclass, replace

import numpy as np

from tunix_rt_common.specs import DpoSpec, TrainSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine.batches import total_steps
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.loop import TrainingData


@dataclass(frozen=True)
class Device:
    """So many devices of one name; `memory_bytes` is what arrays may take on each.

    Checkpoints are copied into the host's memory before they are written: that of a device which `is_host`.
    """

    name: str
    memory_bytes: int
    is_host: bool
    count: int = 1


@dataclass(frozen=True)
class Subject:
    """A run: its configs say in which precision it computes."""

    config: ModelConfig
    spec: TrainSpec
    data: TrainingData
    teacher: ModelConfig | None = None

    @property
    def rows(self) -> EncodedRows:
        """What it trains on. Where it compares with a reference, that is there, as zeros."""
        train = self.data.train
        if isinstance(self.spec, DpoSpec):
            return replace(train, reference=np.zeros(len(train.packs), np.float32))
        return train

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return total_steps(self.spec, self.data.train.examples)

    def changed(self, spec: TrainSpec) -> "Subject":
        """The same run by another spec."""
        return replace(self, spec=spec, config=self.config.model_copy(update={"remat": spec.remat}))
