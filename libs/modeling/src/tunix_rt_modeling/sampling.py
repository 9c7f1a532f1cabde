"""Completing many prompts: text, stop strings and checks around the batch of `batching`."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import SamplingSpec
from tunix_rt_modeling.batching import Continuation, Counts
from tunix_rt_modeling.batchplan import Request, free_bytes, plan_rows
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.decoding import Drawing
from tunix_rt_modeling.drawing import Draw
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.lanes import Lanes
from tunix_rt_modeling.tokenizer import Tokenizer

Prompt = Sequence[int]


@dataclass(frozen=True)
class Completion:
    """What followed a prompt.

    `token_ids` ends before the end-of-sequence token, or with the token that completed a stop string; `text` ends
    before the stop string. `logprobs` are the tokens' natural log-probabilities (float32) by the model itself: before
    temperature, top_k and top_p. `finish_reason` is "length" when `max_new_tokens` were drawn without either.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]


def fits(config: ModelConfig, prompt: Prompt, sampling: SamplingSpec) -> bool:
    """Say whether the context holds the prompt and `max_new_tokens` more."""
    return len(prompt) + sampling.max_new_tokens <= config.max_positions


def generate(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    sampling: SamplingSpec,
    *,
    batch_size: int = 64,
    cache_bytes: int | None = None,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[Counts], None] | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Yield (index of the prompt, completion) as they end, out of order; equal prompts are read once.

    Up to `batch_size` rows run side by side, fewer where `cache_bytes` (the device's free memory unless given) would
    not hold their keys and values. Each draws from its own stream, made of `sampling.seed` and its entry of `seeds`
    (its index unless given), so a completion does not depend on the other prompts, up to rounding of the logits.
    `on_progress` is called every few tokens; what it raises ends the generation.

    Raises:
        InvalidInput: a prompt is empty, does not fit the context, or holds ids that the model lacks, or not even one
            row fits the memory; at the call.
    """
    for index, prompt in enumerate(prompts):
        _check_prompt(model.config, index, prompt, sampling)
    row_seeds = range(len(prompts)) if seeds is None else seeds
    if len(row_seeds) != len(prompts):
        raise InvalidInput(f"{len(row_seeds)} seeds for {len(prompts)} prompts: give one each")
    if not prompts:
        return iter(())
    requests = [
        Request(tuple(prompt), seed, sampling.max_new_tokens) for prompt, seed in zip(prompts, row_seeds, strict=True)
    ]
    room = free_bytes(model.config, model.params) if cache_bytes is None else cache_bytes
    rows = plan_rows(model.config, requests, batch_size, room)
    eos_ids = tuple(sorted({*model.config.eos_token_ids, model.tokenizer.eos_id}))
    reader = _Reader(model.tokenizer, eos_ids, sampling.stop)
    how = Drawing(Draw(sampling.temperature, sampling.top_k, sampling.top_p), eos_ids)
    lanes = Lanes(model.config, model.params, requests, rows=rows, how=how, seed=sampling.seed)
    return _run(lanes, reader, on_progress)


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
    lanes: Lanes, reader: "_Reader", on_progress: Callable[[Counts], None] | None
) -> Iterator[tuple[int, Completion]]:
    for finished in lanes.run(reader.stops if reader.stop else None):
        yield from ((continuation.request, reader.read(continuation)) for continuation in finished)
        if on_progress is not None:
            on_progress(lanes.counts)


@dataclass(frozen=True)
class _Reader:
    """Turns drawn ids into text."""

    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    stop: tuple[str, ...]

    def read(self, drawn: Continuation) -> Completion:
        """Cut what was drawn at its end-of-sequence token, then at the first stop string."""
        ended = drawn.token_ids[-1] in self.eos_ids
        ids = drawn.token_ids[:-1] if ended else drawn.token_ids
        text = self.tokenizer.decode(ids)
        length, cut = len(ids), self._find_stop(text)
        if stopped := cut < len(text):
            length = bisect_left(range(len(ids)), 1, key=lambda n: self.stops(ids[:n]))
        reason: Literal["stop", "length"] = "stop" if ended or stopped else "length"
        return Completion(text[:cut], tuple(ids[:length]), tuple(drawn.logprobs[:length]), reason)

    def stops(self, ids: Sequence[int]) -> bool:
        """Say whether a stop string is complete."""
        text = self.tokenizer.decode(ids)
        return self._find_stop(text) < len(text)

    def _find_stop(self, text: str) -> int:
        """Return where the first stop string begins, the text's length where there is none."""
        found = [text.find(stop) for stop in self.stop]
        return min((start for start in found if start >= 0), default=len(text))
