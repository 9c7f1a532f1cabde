"""The few shapes that generation uses, and how many rows fit into the memory there is, before any is allocated."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import jax
import jax.numpy as jnp

from tunix_rt_common.errors import InvalidInput
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.kvcache import ring_slots, token_bytes
from tunix_rt_modeling.transformer import Params, parameter_count

PROMPTS_AT_ONCE = 8
TOKENS_AT_ONCE = 256
_SMALLEST = 64
_FEWEST_ROWS_OF_A_LANE = 8


@dataclass(frozen=True)
class Request:
    """A prompt to continue with at most `max_new_tokens`, drawn from the stream of `seed`."""

    prompt: tuple[int, ...]
    seed: int
    max_new_tokens: int

    @property
    def tokens(self) -> int:
        """The most that its row will hold: the last token drawn is never read."""
        return len(self.prompt) + self.max_new_tokens - 1


def padded(tokens: int) -> int:
    """Return the size that so many tokens are padded to, slots of a row or a row of prompts: 64, 96, 128, 192, ..."""
    power = max(_SMALLEST, 1 << (tokens - 1).bit_length())
    return power * 3 // 4 if power > _SMALLEST and tokens <= power * 3 // 4 else power


def read_together(lengths: Iterable[int]) -> int:
    """Return how many prompts of the given lengths to read in one row: at least one, and no more than fill it."""
    filled = accumulate(lengths)
    return max(1, sum(tokens <= TOKENS_AT_ONCE for tokens in islice(filled, PROMPTS_AT_ONCE)))


def fewest_rows(config: ModelConfig) -> int:
    """Return how many rows a batch has at least: XLA copies a cache of one row and one key head in every step."""
    return 2 if config.num_kv_heads == 1 else 1


def most_lanes(rows: int) -> int:
    """Return how many batches may share so many rows: one for each core of a CPU, where each gets rows enough."""
    cores = _cores() if jax.default_backend() == "cpu" else 1
    return cores if rows >= cores * _FEWEST_ROWS_OF_A_LANE else 1


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan_rows(config: ModelConfig, requests: Sequence[Request], batch_size: int, cache_bytes: int) -> int:
    """Return how many rows run side by side: `batch_size`, or as many as `cache_bytes` hold at their longest.

    Few requests get the next power of two.

    Raises:
        InvalidInput: not even one row fits.
    """
    fewest = fewest_rows(config)
    most = max(fewest, min(batch_size, 1 << (len(requests) - 1).bit_length()))
    tokens, width = max(request.tokens for request in requests), max(len(request.prompt) for request in requests)
    for rows in range(most, fewest - 1, -1):
        if peak_bytes(config, rows, tokens, width) <= cache_bytes:
            return rows
    raise InvalidInput(_refusal(config, requests, cache_bytes))


def free_bytes(config: ModelConfig, params: Params) -> int:
    """Return what is left for a cache: the device's free memory, less the weights that a step reads a copy of.

    Where the device does not tell what is free, it is the machine's whole memory.
    """
    copied = parameter_count(params) * jnp.dtype(config.compute_dtype).itemsize
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0)) - copied
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") - copied


def peak_bytes(config: ModelConfig, rows: int, tokens: int, longest_prompt: int) -> int:
    """Return the most that the cache of `rows` rows takes.

    It is the rings, two copies of a layer's while they are resized, and in each lane the prompts that were read and
    have not joined.
    """
    layers = ring_slots(config, padded(tokens))
    unjoined = most_lanes(rows) * config.num_layers * max(TOKENS_AT_ONCE, padded(longest_prompt))
    return token_bytes(config) * (rows * (sum(layers) + 2 * max(layers)) + unjoined)


def _refusal(config: ModelConfig, requests: Sequence[Request], limit: int) -> str:
    longest = max(requests, key=lambda request: request.tokens)
    width = max(len(request.prompt) for request in requests)
    rows = fewest_rows(config)
    needed = peak_bytes(config, rows, longest.tokens, width)
    shorter = range(len(longest.prompt), longest.tokens)
    fitting = [tokens for tokens in shorter if peak_bytes(config, rows, tokens, width) <= limit]
    remedy = f"lower max_new_tokens to {fitting[-1] - len(longest.prompt) + 1}" if fitting else "shorten the prompts"
    return (
        f"one row of {longest.tokens} tokens needs {needed:,} bytes of cache, and {limit:,} are there: {remedy}, or "
        f"raise cache_mib to {-(-needed // 2**20)} where the device has it"
    )
