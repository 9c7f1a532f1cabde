"""Tokens per second of the `tiny` preset, training and generating, on the quickstart's traces."""

import time
from collections.abc import Iterator
from itertools import islice
from statistics import median

import jax
import jax.numpy as jnp
from measurement import Measurement, median_seconds

from tunix_rt.synthetic import arithmetic_traces
from tunix_rt_common.chat import ChatTemplate, prompt_text
from tunix_rt_common.datasets import DatasetRow, row_from_trace
from tunix_rt_common.specs import LoraSpec, SamplingSpec, SftSpec
from tunix_rt_common.traces import Trace
from tunix_rt_modeling import transformer
from tunix_rt_modeling.config import PRESETS
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.sampling import generate
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_trainer.engine import loop, state
from tunix_rt_trainer.engine.examples import encode_rows
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.engine.tokenise import tokenise

CONFIG = PRESETS["tiny"]
TOKENIZER = byte_tokenizer()
TEMPLATE = ChatTemplate.of(TOKENIZER.chat_template, TOKENIZER.bos_token, TOKENIZER.eos_token)
SPEC = SftSpec(epochs=1000, batch_size=64, max_tokens=128)
TRACES = 2_000
WARM_UP_STEPS = 5
WINDOWS = 5
STEPS_PER_WINDOW = 15
GENERATED_ROWS = 64
MAX_NEW_TOKENS = 64
GENERATIONS = 7
MATRIX = 2_048


def measure_model() -> list[Measurement]:
    """Training with all weights and with LoRA, its arithmetic beside a plain product's, and generation."""
    full = training_tokens_per_s(SPEC)
    adapters = training_tokens_per_s(SPEC.model_copy(update={"lora": LoraSpec()}))
    product = matmul_gflops()
    return [
        Measurement("training, all weights", "tokens/s", full),
        Measurement("training, 6 FLOP/weight", "GFLOP/s", gflops(full, 6), product, "plain matmul"),
        Measurement("training, LoRA rank 8", "tokens/s", adapters),
        Measurement("LoRA, 4 FLOP/weight", "GFLOP/s", gflops(adapters, 4), product, "plain matmul"),
        Measurement(
            "generation of 64 rows", "tokens/s", generation_tokens_per_s(), forward_tokens_per_s(), "forward pass"
        ),
        Measurement("training on a GPU", "tokens/s"),
        Measurement("generation on a GPU", "tokens/s"),
    ]


def training_tokens_per_s(spec: SftSpec) -> float:
    """Tokens per second, padding excluded: the median window after the first steps, which compile."""
    rows = _rows(TRACES)
    data = TrainingData(encode_rows(rows, tokenise(rows, TOKENIZER, TEMPLATE, spec), spec, CONFIG))
    started = state.init(CONFIG, spec, transformer.init_params(CONFIG, jax.random.key(0)))
    steps = loop.train(CONFIG, spec, started, data, save=lambda *_: None)
    for _ in islice(steps, WARM_UP_STEPS):
        pass
    return median(_window_tokens_per_s(steps) for _ in range(WINDOWS))


def gflops(tokens_per_s: float, flop_per_weight: int) -> float:
    """Useful arithmetic in 10^9 FLOP/s (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).

    2 FLOP per weight and token go forward, 2 into the gradient of the activations, 2 into that of the weights, which
    LoRA spares. Attention scores, padding and recomputed activations are left out.
    """
    weights = transformer.parameter_count(transformer.init_params(CONFIG, jax.random.key(0)))
    return tokens_per_s * flop_per_weight * weights / 1e9


def matmul_gflops() -> float:
    """What a float32 product of two square matrices reaches on all cores, in 10^9 FLOP/s."""
    left = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX))
    multiply = jax.jit(jnp.matmul)
    multiply(left, left).block_until_ready()
    return 2 * MATRIX**3 / 1e9 / median_seconds(lambda: multiply(left, left).block_until_ready(), 7)


def generation_tokens_per_s() -> float:
    """Tokens drawn greedily per second of whole calls (prompts in, texts out) by untrained weights."""
    model = LoadedModel(CONFIG, transformer.init_params(CONFIG, jax.random.key(0)), TOKENIZER)
    prompts = [TOKENIZER.encode(prompt_text(row.prompt, TEMPLATE)) for row in _rows(GENERATED_ROWS)]
    sampling = SamplingSpec(max_new_tokens=MAX_NEW_TOKENS)

    def tokens() -> int:
        completions = generate(model, prompts, sampling, batch_size=GENERATED_ROWS)
        return sum(len(completion.token_ids) for _, completion in completions)

    drawn = tokens()
    return drawn / median_seconds(tokens, GENERATIONS)


def forward_tokens_per_s() -> float:
    """Tokens per second when all of them are known beforehand: what drawing them one by one cannot exceed."""
    params = transformer.init_params(CONFIG, jax.random.key(0))
    token_ids = jnp.zeros((GENERATED_ROWS, MAX_NEW_TOKENS), jnp.int32)
    forward = jax.jit(lambda token_ids: transformer.logits(CONFIG, params, token_ids))
    forward(token_ids).block_until_ready()
    return token_ids.size / median_seconds(lambda: forward(token_ids).block_until_ready(), GENERATIONS)


def _window_tokens_per_s(steps: Iterator[StepInfo]) -> float:
    started_s = time.perf_counter()
    tokens = sum(info.tokens for info in islice(steps, STEPS_PER_WINDOW))
    return tokens / (time.perf_counter() - started_s)


def _rows(count: int) -> list[DatasetRow]:
    return [row_from_trace(Trace.model_validate(record)) for record in arithmetic_traces(count, seed=7)]
