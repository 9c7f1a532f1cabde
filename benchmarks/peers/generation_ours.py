"""The generation of Tunix RT: continuous batching, greedy."""

import json
import sys
import time
from pathlib import Path

import rounds

sys.path.append(str(Path(__file__).parents[1]))
from generation_work import read_case

from tunix_rt_modeling import huggingface
from tunix_rt_modeling.decoding import Drawing
from tunix_rt_modeling.drawing import GREEDY
from tunix_rt_modeling.lanes import Lanes

folder, case = Path(sys.argv[1]), read_case(Path(sys.argv[1]), sys.argv[2])
model = huggingface.load(folder)
while True:
    number = rounds.next_round()
    started_s = time.perf_counter()
    lanes = Lanes(model.config, model.params, case.requests, rows=case.batch_size, how=Drawing(GREEDY, ()), seed=0)
    drawn = {row.request: row.token_ids for finished in lanes.run(None) for row in finished}
    seconds = time.perf_counter() - started_s
    if number == 0:
        (folder / "ours.json").write_text(json.dumps([drawn[index] for index in range(len(drawn))]))
    rounds.answer(tokens=lanes.counts.drawn_tokens, seconds=seconds)
