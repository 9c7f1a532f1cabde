"""The engine of Tunix RT on the device that JAX finds, and beside it a large product on the same device."""

import sys
import time
from itertools import islice
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import rounds

sys.path.append(str(Path(__file__).parents[1]))
from device_work import TEXTS_IN_A_ROW, WORK

from tunix_rt_modeling.transformer import init_params, parameter_count
from tunix_rt_trainer.engine import loop, state
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.loop import TrainingData

PRODUCT_SIZE, PRODUCTS = 16_384, 10


def product_flops_per_s() -> float:
    """What a product of two large square matrices in the compute dtype reaches; smaller ones on a CPU."""
    size = PRODUCT_SIZE if jax.default_backend() != "cpu" else PRODUCT_SIZE // 16
    left = jax.random.normal(jax.random.key(0), (size, size)).astype(config.compute_dtype)
    multiply = jax.jit(jnp.matmul)
    multiply(left, left).block_until_ready()
    seconds = []
    for _ in range(PRODUCTS):
        began_s = time.perf_counter()
        multiply(left, left).block_until_ready()
        seconds.append(time.perf_counter() - began_s)
    return 2 * size**3 / median(seconds)


work, steps = WORK[sys.argv[4]], int(sys.argv[3])
config = on_device(work.config, work.spec)
params = init_params(config, jax.random.key(0))
parameters = parameter_count(params)
attention_flop = 6 * config.num_layers * config.num_heads * config.head_dim * (work.tokens // TEXTS_IN_A_ROW)
started = state.init(config, work.spec, params)
del params
infos = loop.train(config, work.spec, started, TrainingData(work.rows()), save=lambda *_: None)
while True:
    count = steps if rounds.next_round() else rounds.WARM_UP_STEPS
    started_s = time.perf_counter()
    tokens = sum(info.tokens for info in islice(infos, count))
    seconds = time.perf_counter() - started_s
    rounds.answer(
        tokens=tokens,
        seconds=seconds,
        flop=tokens * (6 * parameters + attention_flop),
        product_flops_per_s=product_flops_per_s(),
    )
