"""Generation on all cores of a CPU: each core runs a batch of its own, and waits for no other within a step.

A product for some dozens of rows is too small to be shared: handing it out and waiting for everybody takes a fifth of
the time. Which lane continues which prompt is settled beforehand, by their tokens: the same requests always run beside
the same ones, and give the same bits.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import jax

from tunix_rt_modeling.batching import Continuation, ContinuousBatch, Counts, by_prompt
from tunix_rt_modeling.batchplan import Request, most_lanes
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.decoding import ONE_CORE, WHOLE_DEVICE, Drawing
from tunix_rt_modeling.inference import fuse
from tunix_rt_modeling.transformer import Params

_MOST_WEIGHTS_BYTES = 64 * 2**20
"""Larger ones do not stay in the cache that cores share: each lane would read them from memory by itself."""
_MOST_UNEVEN = 1.1
"""The longest lane's tokens over the mean: beyond, the cores that are done too early cost what lanes gain."""


class Lanes:
    """Runs requests through batches of `rows` rows together: one for each core, or one in all where that is faster."""

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        requests: Sequence[Request],
        *,
        rows: int,
        how: Drawing,
        seed: int,
    ) -> None:
        weights = fuse(config, params)
        small = sum(leaf.nbytes for leaf in jax.tree.leaves(weights)) <= _MOST_WEIGHTS_BYTES
        dealt = _deal(requests, most_lanes(rows) if small else 1)
        programs = WHOLE_DEVICE if len(dealt) == 1 else ONE_CORE
        self._batches = [
            ContinuousBatch(config, weights, own, rows=rows // len(dealt), how=how, seed=seed, programs=programs)
            for own in dealt
        ]

    @property
    def counts(self) -> Counts:
        """How far all of them have come."""
        return sum((batch.counts for batch in self._batches), Counts())

    def run(self, stops: Callable[[Sequence[int]], bool] | None) -> Iterator[list[Continuation]]:
        """Yield what has ended, as `ContinuousBatch.run` does, whichever lane it was in."""
        runs = [batch.run(stops) for batch in self._batches]
        if len(runs) == 1:
            yield from runs[0]
            return
        with ThreadPoolExecutor(len(runs)) as pool:
            under_way = {pool.submit(next, run, None): run for run in runs}
            while under_way:
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    run, finished = under_way.pop(future), future.result()
                    if finished is not None:
                        under_way[pool.submit(next, run, None)] = run
                        yield finished


def _deal(requests: Sequence[Request], lanes: int) -> list[dict[int, Request]]:
    """Deal requests out by their tokens, or to one lane where that comes out uneven: by their indices.

    Equal prompts stay together, to be read once.
    """
    everything = dict(enumerate(requests))
    groups = [{index: requests[index] for index in alike} for alike in by_prompt(everything)]
    dealt: list[dict[int, Request]] = [{} for _ in range(lanes)]
    for group in sorted(groups, key=_tokens, reverse=True):
        min(dealt, key=_tokens).update(group)
    uneven = max(map(_tokens, dealt)) > _MOST_UNEVEN * _tokens(everything) / lanes
    return [everything] if uneven else [lane for lane in dealt if lane]


def _tokens(requests: Mapping[int, Request]) -> int:
    return sum(request.tokens for request in requests.values())
