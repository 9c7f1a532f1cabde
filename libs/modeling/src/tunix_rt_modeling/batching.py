"""Continuous batching: whichever row ends makes room for the next request, and none waits for its neighbours.

The host decides who runs, between segments of up to `_STEPS` tokens that the device draws by itself; whatever runs on
the device has one of few shapes, so that no prompt compiles a program of its own.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from tunix_rt_modeling import decoding
from tunix_rt_modeling.batchplan import PROMPTS_AT_ONCE, Request, fewest_rows, padded, read_together
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.decoding import Drawing, Programs, Prompts, Segment
from tunix_rt_modeling.inference import Weights
from tunix_rt_modeling.kvcache import Spans

_STEPS = 32
_REFILLED_AT_ONCE = 8


@dataclass
class Continuation:
    """What was drawn for a request, the end token included; `request` is its index.

    `logprobs` are the tokens' natural log-probabilities by the model itself: before temperature, top_k and top_p.
    """

    request: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@dataclass(frozen=True)
class Counts:
    """How far a batch has come. `prompt_tokens` are those that were read: equal prompts count once."""

    finished: int = 0
    prompt_tokens: int = 0
    drawn_tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.finished + other.finished,
            self.prompt_tokens + other.prompt_tokens,
            self.drawn_tokens + other.drawn_tokens,
        )


@dataclass(frozen=True)
class _Joining:
    """A request whose prompt has been read."""

    request: int
    prompts: Prompts
    source: int


class ContinuousBatch:
    """Runs requests through a batch of `rows` rows."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Weights,
        requests: Mapping[int, Request],
        *,
        rows: int,
        how: Drawing,
        seed: int,
        programs: Programs,
    ) -> None:
        self.counts = Counts()
        self._config = config
        self._weights = weights
        self._programs = programs
        self._requests = requests
        self._how = how
        self._root = jax.random.key(seed)
        self._waiting = deque(by_prompt(requests))
        self._joining: deque[_Joining] = deque()
        self._running: dict[int, Continuation] = {}
        self._rows = max(rows, fewest_rows(config))
        self._slots = padded(max(min(len(request.prompt) + _STEPS, request.tokens) for request in requests.values()))
        self._batch = decoding.empty_batch(config, self._rows, self._slots)

    def run(self, stops: Callable[[Sequence[int]], bool] | None) -> Iterator[list[Continuation]]:
        """Yield after every segment what has ended: by an end token, its length, or since `stops` is true of its ids.

        The device draws the next segment while the caller has the last one's in hand, and `stops` is asked meanwhile.
        """
        finished: list[Continuation] = []
        self._refill()
        while self._running:
            segment = self._decode()
            yield finished
            if stops is not None:
                for continuation in self._running.values():
                    continuation.stopped = stops(continuation.token_ids)
            finished = self._collect(segment)
            self._refill()
        yield finished

    def _decode(self) -> Segment:
        """Dispatch a segment, which ends early once enough rows are done to be worth the host's attention."""
        self._resize(self._rows)
        kept = np.isin(np.arange(self._rows), list(self._running))
        if self._waiting or self._joining:
            enough = self._rows - len(self._running) + max(1, self._rows // _REFILLED_AT_ONCE)
        else:
            enough = self._rows - self._half if self._half < self._rows else self._rows
        segment: Segment
        self._batch, segment = self._programs.decode(
            self._config, self._weights, self._batch, kept, enough, self._root, how=self._how, steps=_STEPS
        )
        return segment

    @property
    def _half(self) -> int:
        return max(self._rows // 2, fewest_rows(self._config))

    def _resize(self, rows: int) -> None:
        """Hold what the running rows will be after a segment and little more: every slot costs in every step.

        Where there are fewer `rows` than before, the running ones move to the front; copies of them fill the rest.
        """
        slots = padded(max(map(self._tokens_after_segment, self._running.values())))
        if (rows, slots) == (self._rows, self._slots):
            return
        kept = None if rows == self._rows else jnp.asarray(np.resize(list(self._running), rows))
        if kept is not None:
            self._running = dict(enumerate(self._running.values()))
        self._batch = decoding.resize(self._config, self._batch, kept, slots)
        self._rows, self._slots = rows, slots

    def _tokens_after_segment(self, continuation: Continuation) -> int:
        request = self._requests[continuation.request]
        cached = len(request.prompt) + max(len(continuation.token_ids), 1) - 1
        return min(cached + _STEPS, request.tokens)

    def _collect(self, segment: Segment) -> list[Continuation]:
        """Wait for a segment, note what it drew, and return what has ended, whose rows are free."""
        tokens, logprobs, drawn, done = map(np.asarray, segment)
        finished, fresh = [], 0
        for row, continuation in list(self._running.items()):
            known = len(continuation.token_ids)
            columns = slice(min(known, 1), 1 + drawn[row] - max(known, 1))
            continuation.token_ids += tokens[row, columns].tolist()
            continuation.logprobs += logprobs[row, columns].tolist()
            fresh += len(continuation.token_ids) - known
            if done[row] or continuation.stopped:
                finished.append(self._running.pop(row))
        self.counts += Counts(finished=len(finished), drawn_tokens=fresh)
        return finished

    def _refill(self) -> None:
        """Give free rows to requests that wait, and give rows up that nobody will need."""
        while (self._joining or self._waiting) and len(self._running) < self._rows:
            if not self._joining:
                self._read()
            self._join()
        if 0 < len(self._running) <= self._half:
            self._resize(self._half)

    def _read(self) -> None:
        """Read the next prompts, each once for all of its requests: as many as fill a row, before there is room."""
        count = read_together(len(self._prompt(alike)) for alike in self._waiting)
        group = [self._waiting.popleft() for _ in range(count)]
        prompts = [self._prompt(alike) for alike in group]
        token_ids, segments = np.zeros((2, padded(sum(map(len, prompts)))), np.int32)
        starts, lengths = np.zeros((2, PROMPTS_AT_ONCE), np.int32)
        lengths[:] = 1
        end = 0
        for number, prompt in enumerate(prompts):
            starts[number], lengths[number] = end, len(prompt)
            token_ids[end : end + len(prompt)], segments[end : end + len(prompt)] = prompt, number + 1
            end += len(prompt)
        read = self._programs.read_prompts(
            self._config, self._weights, token_ids, segments, Spans(*map(jnp.asarray, (starts, lengths)))
        )
        self.counts += Counts(prompt_tokens=end)
        self._joining.extend(_Joining(index, read, source) for source, alike in enumerate(group) for index in alike)

    def _prompt(self, alike: Sequence[int]) -> tuple[int, ...]:
        return self._requests[alike[0]].prompt

    def _join(self) -> None:
        """Let requests whose prompts were read take the free rows."""
        free = [row for row in range(self._rows) if row not in self._running]
        taken = [self._joining.popleft() for _ in range(min(len(free), len(self._joining)))]
        sources, limits, seeds = (np.full(self._rows, value) for value in (np.int32(-1), np.int32(1), np.uint32(0)))
        for row, joining in zip(free, taken, strict=False):
            request = self._requests[joining.request]
            sources[row], limits[row], seeds[row] = joining.source, request.max_new_tokens, request.seed
            self._running[row] = Continuation(joining.request)
        self._resize(self._rows)
        self._batch = decoding.join(self._batch, taken[0].prompts, sources, limits, seeds, self._root, how=self._how)


def by_prompt(requests: Mapping[int, Request]) -> list[list[int]]:
    """Group the indices of requests with equal prompts, long prompts first: the last to run are then short ones."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, request in requests.items():
        groups.setdefault(request.prompt, []).append(index)
    return sorted(groups.values(), key=lambda alike: -len(requests[alike[0]].prompt))
