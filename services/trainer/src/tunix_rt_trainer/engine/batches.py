"""Which examples a step sees: a pure function of (seed, step), so that a resumed run continues with the very next one.

The epochs' orders, laid end to end, form one endless stream of examples, each a row of the dataset, several packed rows
or a pair of answers; step s takes examples s*B to (s+1)*B of it. Every batch is therefore full, and the last one of a
run borrows what it misses from the next epoch.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import jax
import numpy as np
from jaxtyping import Float32, Int, Int32

from tunix_rt_common.specs import TrainSpec
from tunix_rt_trainer.engine.examples import EncodedRows

SHORTEST_BUCKET = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Sequences padded on the right to one length. `loss_weights` are of the tokens predicted, not of the predicting.

    `segments` counts the rows in a sequence from 1, and is 0 on padding. Of pairs, the chosen answer is at even places,
    the rejected one after it; `reference` is then each answer's log-probability before training. A training batch has a
    leading axis of micro-batches: "accumulation batch tokens".
    """

    token_ids: Int32[np.ndarray, "*batch tokens"]
    loss_weights: Float32[np.ndarray, "*batch tokens"]
    segments: Int32[np.ndarray, "*batch tokens"]
    reference: Float32[np.ndarray, "*batch"] | None = None


def total_steps(spec: TrainSpec, examples: int) -> int:
    """Optimizer steps of a run over `examples`: enough full batches for `epochs`, at most `max_steps`."""
    # Rounded, since 1.1 epochs of 10 are 11 and not 11.000000000000002.
    steps = max(1, math.ceil(round(spec.epochs * examples / spec.batch_size, 6)))
    return min(steps, spec.max_steps or steps)


def examples_of_step(seed: int, step: int, batch_size: int, count: int) -> Int[np.ndarray, " batch"]:
    """Indices of the examples of step `step` (from 0), in their order within the batch."""
    epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), count)
    return np.array([_epoch_order(seed, int(epoch), count)[place] for epoch, place in zip(epochs, places, strict=True)])


@lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, count: int) -> Int[np.ndarray, " count"]:
    # Raw Philox output is the one stream that NumPy promises never to change (NEP 19); shuffle() may change.
    return np.argsort(np.random.Philox(key=[seed, epoch]).random_raw(count), kind="stable")


def training_batch(data: EncodedRows, spec: TrainSpec, step: int) -> Batch:
    """The batch of step `step` (from 0), as `spec.accumulation` equal micro-batches of one padded length."""
    batch = _pad(data, examples_of_step(spec.seed, step, spec.batch_size, data.examples))
    size = len(batch.token_ids) // spec.accumulation
    split: Batch = jax.tree.map(lambda leaf: leaf.reshape(spec.accumulation, size, *leaf.shape[1:]), batch)
    return split


def evaluation_batches(data: EncodedRows, batch_size: int) -> Iterator[Batch]:
    """Every example once, similar lengths together; the last batch is filled up with some that weigh nothing."""
    for _, batch in numbered_batches(data, batch_size):
        yield batch


def numbered_batches(data: EncodedRows, batch_size: int) -> Iterator[tuple[Int[np.ndarray, " sequences"], Batch]]:
    """As `evaluation_batches`, with the numbers of each batch's sequences, those that fill it up left out."""
    lengths = np.array([_length(data, pack) for pack in data.packs]).reshape(data.examples, -1)
    by_length = np.argsort(lengths.max(axis=1), kind="stable")
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        batch = _pad(data, np.pad(chosen, (0, batch_size - len(chosen)), mode="edge"))
        numbers = data.sequences(chosen)
        batch.loss_weights[len(numbers) :] = 0
        yield numbers, batch


def bucket(tokens: int) -> int:
    """The padded length, the next of 32, 48, 64, 96, 128, 192 …: few shapes to compile, little padding."""
    power = max(SHORTEST_BUCKET, 1 << (tokens - 1).bit_length())
    between = power * 3 // 4
    return between if max(tokens, SHORTEST_BUCKET) <= between else power


def _length(data: EncodedRows, pack: tuple[int, ...]) -> int:
    return sum(len(data.token_ids[row]) for row in pack)


def _pad(data: EncodedRows, examples: Int[np.ndarray, " batch"]) -> Batch:
    # The value under the padding is never seen: attention and loss are masked there.
    numbers = data.sequences(examples)
    packs = [data.packs[number] for number in numbers]
    shape = (len(packs), bucket(max(_length(data, pack) for pack in packs)))
    reference = None if data.reference is None else data.reference[numbers]
    batch = Batch(np.zeros(shape, np.int32), np.zeros(shape, np.float32), np.zeros(shape, np.int32), reference)
    for place, pack in enumerate(packs):
        end = 0
        for segment, row in enumerate(pack, start=1):
            start, end = end, end + len(data.token_ids[row])
            batch.token_ids[place, start:end] = data.token_ids[row]
            batch.loss_weights[place, start + 1 : end] = data.loss_weights[row][1:]
            batch.segments[place, start:end] = segment
    return batch
