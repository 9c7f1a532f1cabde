"""A training step on an accelerator: llama-3.2-1b's shape in bfloat16, packed rows of 2,048 tokens.

Beside it a large matrix product on the same device. Where there is no accelerator, the rows say "not measured".
"""

import time
from statistics import median

import jax
import jax.numpy as jnp
import numpy as np
from measurement import Measurement, record

from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling.config import Llama3Rope, ModelConfig, Rope
from tunix_rt_modeling.transformer import init_params, parameter_count
from tunix_rt_trainer.engine import state
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.step import train_step

ROWS, TOKENS, SEGMENTS = 8, 2_048, 8
SPEC = SftSpec(batch_size=ROWS, max_tokens=TOKENS, packing=True)
CONFIG = ModelConfig(
    vocab_size=128_256,
    hidden_size=2_048,
    intermediate_size=8_192,
    num_layers=16,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    max_positions=131_072,
    rope=Rope(
        theta=500_000.0,
        scaling=Llama3Rope(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8_192),
    ),
    tie_embeddings=True,
)
MATRIX = 16_384
WARM_UP, STEPS = 3, 10
SUBJECTS = ("training on an accelerator", "training on an accelerator, arithmetic")


def measure() -> list[Measurement]:
    """Tokens per second, and the arithmetic of them beside that of a plain product."""
    if jax.default_backend() == "cpu":
        return [Measurement(SUBJECTS[0], "tokens/s"), Measurement(SUBJECTS[1], "TFLOP/s")]
    per_second, parameters = tokens_per_s()
    attention_flop = 6 * CONFIG.num_layers * CONFIG.num_heads * CONFIG.head_dim * (TOKENS // SEGMENTS)
    tflops = per_second * (6 * parameters + attention_flop) / 1e12
    return [
        Measurement(SUBJECTS[0], "tokens/s", per_second),
        Measurement(SUBJECTS[1], "TFLOP/s", tflops, product_tflops(), "a plain bfloat16 product"),
    ]


def tokens_per_s() -> tuple[float, int]:
    """The median of the steps, each waited for; and the number of weights."""
    config = on_device(CONFIG, SPEC)
    params = init_params(config, jax.random.key(0))
    parameters, current = parameter_count(params), state.init(config, SPEC, params)
    del params
    batch, seconds = packed_batch(), []
    for _ in range(WARM_UP + STEPS):
        began_s = time.perf_counter()
        current, metrics = train_step(config, SPEC, 1_000, current, batch)
        metrics.loss.block_until_ready()
        seconds.append(time.perf_counter() - began_s)
    return ROWS * TOKENS / median(seconds[WARM_UP:]), parameters


def packed_batch() -> Batch:
    """Full rows, each of several segments, all of it trained."""
    shape = (1, ROWS, TOKENS)
    token_ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, shape).astype(np.int32)
    segments = np.broadcast_to(1 + np.arange(TOKENS, dtype=np.int32) * SEGMENTS // TOKENS, shape)
    return Batch(token_ids, np.ones(shape, np.float32), np.ascontiguousarray(segments))


def product_tflops() -> float:
    """What a product of two large square matrices reaches, in 10^12 FLOP/s."""
    left = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX), jnp.bfloat16)
    multiply = jax.jit(jnp.matmul)
    multiply(left, left).block_until_ready()
    seconds = []
    for _ in range(STEPS):
        began_s = time.perf_counter()
        multiply(left, left).block_until_ready()
        seconds.append(time.perf_counter() - began_s)
    return 2 * MATRIX**3 / 1e12 / median(seconds)


if __name__ == "__main__":
    measured = measure()
    record(measured)
    for row in measured:
        limit = f" ({row.limit_is}: {row.limit:,.4g})" if row.limit is not None else ""
        print(f"{row.subject}: {'not measured' if row.value is None else f'{row.value:,.4g} {row.unit}'}{limit}")
