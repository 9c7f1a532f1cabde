"""Memory and compile time of a training step, from the compiler itself: nothing is allocated or run.

The shape is gemma-3-1b's, with other vocabularies, lengths and depths.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from measurement import Measurement, record, show

from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling import transformer
from tunix_rt_modeling.config import ModelConfig, Rope
from tunix_rt_trainer.engine import state
from tunix_rt_trainer.engine.batches import Batch
from tunix_rt_trainer.engine.step import compiled_step as compile_step

ROWS, TOKENS = 8, 2_048
SMALL, LARGE = 8_192, 262_144
SHALLOW, DEEP = 4, 26
GIB = 2**30


class Compiled(NamedTuple):
    """A step as the compiler left it."""

    temporary_bytes: int
    compile_s: float


def gemma(vocab_size: int, layers: int = DEEP) -> ModelConfig:
    """gemma-3-1b, or one like it."""
    return ModelConfig(
        family="gemma3_text",
        vocab_size=vocab_size,
        hidden_size=1152,
        intermediate_size=6912,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=1,
        head_dim=256,
        max_positions=32_768,
        rope=Rope(theta=1e6),
        sliding_rope=Rope(theta=1e4),
        sliding_window=512,
        sliding_layers=tuple((layer + 1) % 6 != 0 for layer in range(layers)),
        rms_norm_eps=1e-6,
        tie_embeddings=True,
        activation="gelu_tanh",
        query_scale=256**-0.5,
        normed_queries=True,
        normed_branches=True,
        offset_norms=True,
        scaled_embeddings=True,
    )


def compiled_step(config: ModelConfig, tokens: int = TOKENS) -> Compiled:
    """One step over `ROWS` sequences, all weights trained."""
    spec = SftSpec(batch_size=ROWS, max_tokens=tokens, packing=True)
    params = jax.eval_shape(lambda: transformer.init_params(config, jax.random.key(0)))
    started = jax.eval_shape(lambda params: state.init(config, spec, params), params)
    shape = (1, ROWS, tokens)
    batch = Batch(np.zeros(shape, np.int32), np.ones(shape, np.float32), np.ones(shape, np.int32))
    began_s = time.perf_counter()
    step = compile_step(config, spec, 100, started, batch)
    return Compiled(step.memory_analysis().temp_size_in_bytes, time.perf_counter() - began_s)


def plain_loss_bytes(config: ModelConfig) -> int:
    """The float32 scores of all tokens for all words, which a plain loss keeps."""
    return ROWS * TOKENS * config.vocab_size * jnp.dtype(jnp.float32).itemsize


def measure() -> list[Measurement]:
    """Memory beside that of a small vocabulary, and compile time beside that of a shallow model."""
    small, large = compiled_step(gemma(SMALL)), compiled_step(gemma(LARGE))
    gradient = LARGE * gemma(LARGE).hidden_size * 4
    rows = [
        Measurement(
            f"step memory, {LARGE:,} words, less the embedding's gradient",
            "GiB",
            (large.temporary_bytes - gradient) / GIB,
            small.temporary_bytes / GIB,
            f"{SMALL:,} words",
        ),
        Measurement("scores that a plain loss would keep", "GiB", plain_loss_bytes(gemma(LARGE)) / GIB),
    ]
    rows += [_by_length(tokens, small.temporary_bytes) for tokens in (512, 1_024, 4_096)]
    shallow, deep = compiled_step(gemma(SMALL, SHALLOW), 128), compiled_step(gemma(SMALL, DEEP), 128)
    rows.append(Measurement(f"compiling {DEEP} layers", "s", deep.compile_s, shallow.compile_s, f"compiling {SHALLOW}"))
    return rows


def _by_length(tokens: int, at_full_length: int) -> Measurement:
    bytes_ = compiled_step(gemma(SMALL), tokens).temporary_bytes
    return Measurement(f"step memory, rows of {tokens:,}", "GiB", bytes_ / GIB, at_full_length / GIB, f"of {TOKENS:,}")


if __name__ == "__main__":
    measured = measure()
    record(measured)
    show(measured)
