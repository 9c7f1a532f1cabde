"""The engine of Tunix RT: its own loop, batches, packing and loss."""

import sys
import time
from itertools import islice
from pathlib import Path

import jax
import rounds

sys.path.append(str(Path(__file__).parents[1]))
from training_work import CONFIG, SPEC, encoded_rows

from tunix_rt_modeling.transformer import init_params
from tunix_rt_trainer.engine import loop, state
from tunix_rt_trainer.engine.loop import TrainingData

data_folder, _, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
rows = encoded_rows(data_folder)
started = state.init(CONFIG, SPEC, init_params(CONFIG, jax.random.key(0)))
infos = loop.train(CONFIG, SPEC, started, TrainingData(rows), save=lambda *_: None)
while True:
    count = steps if rounds.next_round() else rounds.WARM_UP_STEPS
    started_s = time.perf_counter()
    tokens = sum(info.tokens for info in islice(infos, count))
    rounds.answer(tokens=tokens, seconds=time.perf_counter() - started_s)
