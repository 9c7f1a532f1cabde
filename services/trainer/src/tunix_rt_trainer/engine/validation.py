"""The loss over a whole held-out split."""

import math

from tunix_rt_common.errors import UnusableData
from tunix_rt_common.specs import TrainSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine.batches import evaluation_batches
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.engine.step import batch_loss


def validation_loss(config: ModelConfig, spec: TrainSpec, state: TrainState, rows: EncodedRows) -> float:
    """Mean loss in nats over all trained tokens of `rows`, so long rows weigh more; or over all pairs.

    Raises:
        UnusableData: it is not finite.
    """
    batches = evaluation_batches(rows, spec.batch_size // spec.accumulation)
    totals = [batch_loss(config, spec, state, batch) for batch in batches]
    loss = sum(float(part.loss) for part in totals) / sum(float(part.count) for part in totals)
    if not math.isfinite(loss):
        raise UnusableData(
            f"the validation loss at step {int(state.step)} is {loss}: the weights are broken. Check the base model, "
            "or lower the learning rate and start again from an earlier checkpoint"
        )
    return loss
