"""The loss over a whole held-out split."""

import math

from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine.batches import evaluation_batches
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.engine.step import batch_loss


def validation_loss(config: ModelConfig, spec: SftSpec, state: TrainState, rows: EncodedRows) -> float:
    """Mean loss in nats over all trained tokens of `rows`, so long rows weigh more.

    Raises:
        UnusableData: it is not finite.
    """
    batches = evaluation_batches(rows, spec.batch_size // spec.accumulation)
    sums = [batch_loss(config, spec, state, batch) for batch in batches]
    loss = sum(float(loss_sum) for loss_sum, _ in sums) / sum(int(count) for _, count in sums)
    if not math.isfinite(loss):
        raise UnusableData(
            f"the validation loss at step {int(state.step)} is {loss}: the weights are broken. Check the base model, "
            "or lower the learning rate and start again from an earlier checkpoint"
        )
    return loss
