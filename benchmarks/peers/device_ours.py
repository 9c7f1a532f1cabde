"""The engine of Tunix RT on the device that JAX finds, and beside it a large product on the same device."""

import sys
import time
from itertools import islice
from pathlib import Path

import jax
import rounds

sys.path.append(str(Path(__file__).parents[1]))
from device_work import TEXTS_IN_A_ROW, WORK

from tunix_rt_modeling.transformer import init_params, parameter_count
from tunix_rt_trainer.devices import product_flops_per_s
from tunix_rt_trainer.engine import loop, state
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.loop import TrainingData

work, steps = WORK[sys.argv[4]], int(sys.argv[3])
config = on_device(work.config, work.spec)
params = init_params(config, jax.random.key(0))
parameters = parameter_count(params)
attention_flop = 6 * config.num_layers * config.num_heads * config.head_dim * (work.tokens // TEXTS_IN_A_ROW)
product_size = 16_384 if jax.default_backend() != "cpu" else 1_024
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
        product_flops_per_s=product_flops_per_s(config.compute_dtype, product_size),
    )
