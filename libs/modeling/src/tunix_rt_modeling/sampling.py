"""Completing many prompts: batching, seeds, stop strings and text around the device loop of `decoding`."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import SamplingSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.decoding import Draw, Rows, decode, grow, prefill
from tunix_rt_modeling.tokenizer import Tokenizer
from tunix_rt_modeling.transformer import Params

Prompt = Sequence[int]

_SHORTEST_BUCKET = 16
_SMALLEST_CACHE = 128
_TOKENS_PER_STOP_CHECK = 32


@dataclass(frozen=True)
class Completion:
    """What followed a prompt.

    `token_ids` ends before the end-of-sequence token, or with the token that completed a stop string; `text` ends
    before the stop string. `finish_reason` is "length" when `max_new_tokens` were drawn without either.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]


def fits(config: ModelConfig, prompt: Prompt, sampling: SamplingSpec) -> bool:
    """Say whether the context holds the prompt and `max_new_tokens` more."""
    return len(prompt) + sampling.max_new_tokens <= config.max_positions


def generate(
    config: ModelConfig,
    params: Params,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    sampling: SamplingSpec,
    *,
    batch_size: int = 64,
    seeds: Sequence[int] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Yield (index of the prompt, completion) as batches finish, shortest prompts first.

    Each row draws from its own stream, made of `sampling.seed` and its entry of `seeds` (its index unless given), so
    a completion does not depend on the other prompts, up to rounding of the logits. `on_batch` gets the number of
    finished prompts and of all prompts after each batch.

    Raises:
        InvalidInput: a prompt is empty, does not fit the context, or holds ids that the model lacks; at the call.
    """
    for index, prompt in enumerate(prompts):
        _check_prompt(config, index, prompt, sampling)
    row_seeds = range(len(prompts)) if seeds is None else seeds
    if len(row_seeds) != len(prompts):
        raise InvalidInput(f"{len(row_seeds)} seeds for {len(prompts)} prompts: give one each")
    batcher = _Batcher(config, params, tokenizer, sampling)
    return _run(batcher, prompts, row_seeds, batch_size, on_batch)


def _check_prompt(config: ModelConfig, index: int, prompt: Prompt, sampling: SamplingSpec) -> None:
    if not prompt:
        raise InvalidInput(f"prompt {index} is empty: begin it with the BOS token at least")
    if not fits(config, prompt, sampling):
        raise InvalidInput(
            f"prompt {index} has {len(prompt)} tokens and asks for {sampling.max_new_tokens} more, but the context "
            f"holds {config.max_positions}: shorten the prompt or lower max_new_tokens"
        )
    if min(prompt) < 0 or max(prompt) >= config.vocab_size:
        raise InvalidInput(f"prompt {index} holds a token id outside 0..{config.vocab_size - 1}: use this tokenizer")


def _run(
    batcher: "_Batcher",
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    batch_size: int,
    on_batch: Callable[[int, int], None] | None,
) -> Iterator[tuple[int, Completion]]:
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        rows = min(_bucket(len(batch), 1), batch_size)
        completions = batcher.complete([prompts[index] for index in batch], [seeds[index] for index in batch], rows)
        yield from zip(batch, completions, strict=True)
        if on_batch is not None:
            on_batch(first + len(batch), len(order))


@dataclass(frozen=True)
class _Batcher:
    config: ModelConfig
    params: Params
    tokenizer: Tokenizer
    sampling: SamplingSpec

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return tuple(sorted({*self.config.eos_token_ids, self.tokenizer.eos_id}))

    def complete(self, prompts: list[Prompt], seeds: list[int], rows: int) -> list[Completion]:
        """Complete up to `rows` prompts in one batch of exactly `rows`, so that few shapes are ever compiled."""
        sampling = self.sampling
        draw = Draw(sampling.temperature, sampling.top_k, sampling.top_p)
        width = _bucket(max(map(len, prompts)), _SHORTEST_BUCKET)
        state = self._prefill(prompts, seeds, rows, width)
        for until in self._segments(width):
            slots = self._slots(width, until)
            if slots > state.cache.valid.shape[1]:
                state = grow(state, slots)
            state = decode(self.config, self.params, state, until, draw=draw, eos_ids=self.eos_ids)
            completions = [self._read(ids) for ids in np.asarray(state.tokens)[: len(prompts), : int(state.step)]]
            done = np.asarray(state.done).copy()
            done[: len(prompts)] |= [completion.finish_reason == "stop" for completion in completions]
            if done.all():
                break
            state = state._replace(done=jnp.asarray(done))
        return completions

    def _segments(self, width: int) -> list[int]:
        """Return the numbers of drawn tokens at which the host looks: for stop strings, and to enlarge the cache."""
        last = self.sampling.max_new_tokens
        full = {1 << bits for bits in range(_SMALLEST_CACHE.bit_length() - 1, (width + last).bit_length())}
        stops = set(range(_TOKENS_PER_STOP_CHECK, last, _TOKENS_PER_STOP_CHECK)) if self.sampling.stop else set()
        return sorted({slots - width for slots in full if width < slots < width + last} | stops | {last})

    def _slots(self, width: int, drawn: int) -> int:
        """Return the size of the cache for `drawn` tokens after the prompt: a power of two, or all that is needed."""
        return min(_bucket(width + drawn, _SMALLEST_CACHE), width + self.sampling.max_new_tokens)

    def _prefill(self, prompts: list[Prompt], seeds: list[int], rows: int, width: int) -> Rows:
        token_ids = np.zeros((rows, width), np.int32)
        mask = np.zeros((rows, width), bool)
        for row, prompt in enumerate(prompts):
            token_ids[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = True
        root = jax.random.key(self.sampling.seed)
        padded_seeds = jnp.array([*seeds, *[0] * (rows - len(seeds))], jnp.uint32)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, padded_seeds)
        state: Rows = prefill(
            self.config,
            self.params,
            token_ids,
            mask,
            keys,
            ~mask[:, -1],
            max_new=self.sampling.max_new_tokens,
            slots=self._slots(width, 1),
        )
        return state

    def _read(self, row: np.ndarray) -> Completion:
        """Cut a row of drawn ids at its end-of-sequence token, then at the first stop string."""
        ends = np.flatnonzero(np.isin(row, self.eos_ids))
        ids = row[: ends[0]].tolist() if ends.size else row.tolist()
        text = self.tokenizer.decode(ids)
        if (cut := self._find_stop(text)) < len(text):
            length = bisect_left(range(len(ids)), 1, key=lambda n: self._stops(ids[:n]))
            return Completion(text[:cut], tuple(ids[:length]), "stop")
        return Completion(text, tuple(ids), "stop" if ends.size else "length")

    def _stops(self, ids: list[int]) -> bool:
        text = self.tokenizer.decode(ids)
        return self._find_stop(text) < len(text)

    def _find_stop(self, text: str) -> int:
        """Return where the first stop string begins, the text's length where there is none."""
        found = [text.find(stop) for stop in self.sampling.stop]
        return min((start for start in found if start >= 0), default=len(text))


def _bucket(size: int, least: int) -> int:
    """Round up to a power of two, `least` at the least."""
    return max(least, 1 << (size - 1).bit_length())
