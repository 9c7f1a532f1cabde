"""Which rows a step sees: a pure function of (seed, step), so that a resumed run continues with the very next row.

The epochs' orders, laid end to end, form one endless stream of rows; step s takes rows s*B to (s+1)*B of it. Every
batch is therefore full, and the last one of a run borrows its missing rows from the next epoch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Bool, Int, Int32

from tunix_rt_common.specs import SftSpec
from tunix_rt_trainer.engine.examples import EncodedRows

SHORTEST_BUCKET = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to one length. `loss_mask` marks the tokens that are predicted, not the predicting ones.

    A training batch has a leading axis of micro-batches: "accumulation batch tokens".
    """

    token_ids: Int32[np.ndarray, "*batch tokens"]
    loss_mask: Bool[np.ndarray, "*batch tokens"]
    attention_mask: Bool[np.ndarray, "*batch tokens"]


def total_steps(spec: SftSpec, rows: int) -> int:
    """Optimizer steps of a run over `rows` kept rows: enough full batches for `epochs`, at most `max_steps`."""
    exact = round(spec.epochs * rows / spec.batch_size, 6)  # 1.1 epochs of 10 rows are 11 rows, not 11.000000000000002
    steps = max(1, math.ceil(exact))
    return min(steps, spec.max_steps or steps)


def rows_of_step(seed: int, step: int, batch_size: int, rows: int) -> Int[np.ndarray, " batch"]:
    """Indices of the rows of step `step` (from 0), in their order within the batch."""
    epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), rows)
    return np.array([_epoch_order(seed, int(epoch), rows)[place] for epoch, place in zip(epochs, places, strict=True)])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, rows: int) -> Int[np.ndarray, " rows"]:
    # Raw Philox output is the one stream that NumPy promises never to change (NEP 19); shuffle() may change.
    return np.argsort(np.random.Philox(key=[seed, epoch]).random_raw(rows), kind="stable")


def training_batch(data: EncodedRows, spec: SftSpec, step: int) -> Batch:
    """The batch of step `step` (from 0), as `spec.accumulation` equal micro-batches of one padded length."""
    chosen = rows_of_step(spec.seed, step, spec.batch_size, len(data.token_ids))
    batch = _pad(data, chosen)
    shape = (spec.accumulation, -1, batch.token_ids.shape[-1])
    return Batch(batch.token_ids.reshape(shape), batch.loss_mask.reshape(shape), batch.attention_mask.reshape(shape))


def evaluation_batches(data: EncodedRows, batch_size: int) -> Iterator[Batch]:
    """Every row once, similar lengths together; the last batch is filled up with rows whose loss mask is empty."""
    by_length = np.argsort([len(token_ids) for token_ids in data.token_ids], kind="stable")
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        batch = _pad(data, np.pad(chosen, (0, batch_size - len(chosen)), mode="edge"))
        batch.loss_mask[len(chosen) :] = False
        yield batch


def bucket(tokens: int) -> int:
    """The padded length, the next of 32, 48, 64, 96, 128, 192 …: few shapes to compile, little padding."""
    power = max(SHORTEST_BUCKET, 1 << (tokens - 1).bit_length())
    between = power * 3 // 4
    return between if max(tokens, SHORTEST_BUCKET) <= between else power


def _pad(data: EncodedRows, chosen: Int[np.ndarray, " batch"]) -> Batch:
    # The value under the padding is never seen: attention and loss are masked there.
    shape = (len(chosen), bucket(max(len(data.token_ids[row]) for row in chosen)))
    batch = Batch(np.zeros(shape, np.int32), np.zeros(shape, bool), np.zeros(shape, bool))
    for place, row in enumerate(chosen):
        length = len(data.token_ids[row])
        batch.token_ids[place, :length] = data.token_ids[row]
        batch.loss_mask[place, :length] = data.loss_masks[row]
        batch.attention_mask[place, :length] = True
    return batch
