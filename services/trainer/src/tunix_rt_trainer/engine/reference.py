"""What the model thought of each answer before training: the reference of direct preference optimization.

It never changes, so it is computed once and kept with the rows: no second model stays in memory.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from tunix_rt_common.specs import TrainSpec
from tunix_rt_modeling import sharding
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_trainer.engine.batches import Batch, numbered_batches
from tunix_rt_trainer.engine.device import mesh_of
from tunix_rt_trainer.engine.examples import EncodedRows
from tunix_rt_trainer.engine.losses import answer_log_probs
from tunix_rt_trainer.engine.step import program_of, score


def with_reference(
    config: ModelConfig,
    spec: TrainSpec,
    params: PyTree[Array],
    rows: EncodedRows,
    between: Callable[[], None] = lambda: None,
) -> EncodedRows:
    """The rows with each answer's log-probability in nats under the model alone, without an adapter.

    `between` is called after every batch; what it raises ends the work.
    """
    found = np.zeros(len(rows.packs), np.float32)
    mesh = mesh_of(spec)
    for numbers, batch in numbered_batches(rows, spec.batch_size // spec.accumulation):
        with sharding.use(mesh):
            placed = sharding.place_batch(mesh, batch, batch_axis=0)
            found[numbers] = _log_probs(config, program_of(spec), params, placed)[: len(numbers)]
        between()
    return replace(rows, reference=found)


@partial(jax.jit, static_argnames=("config", "spec"))
def _log_probs(config: ModelConfig, spec: TrainSpec, params: PyTree[Array], batch: Batch) -> Float[Array, " batch"]:
    return answer_log_probs(score(config, spec, params, batch), batch)[0]
