"""transformers' `generate`, greedy, at its best: batches padded at the left, prompts of like lengths together."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rounds
import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

torch.set_num_threads(len(os.sched_getaffinity(0)))
folder = Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
(case,) = (case for case in json.loads((folder / "cases.json").read_text()) if case["name"] == sys.argv[2])
requests, size = case["requests"], case["batch_size"]
order = sorted(range(len(requests)), key=lambda index: len(requests[index]["prompt"]))


class Limits(StoppingCriteria):
    """Ends each row where its end token would stand."""

    def __init__(self, width: int, limits: list[int]) -> None:
        self.lengths = width + torch.tensor(limits)

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Which rows are done."""
        return input_ids.shape[1] >= self.lengths


def complete(batch: list[dict[str, Any]]) -> Iterator[list[int]]:
    """The ids that follow each prompt of one batch."""
    width, limits = max(len(row["prompt"]) for row in batch), [row["max_new_tokens"] for row in batch]
    padding = [width - len(row["prompt"]) for row in batch]
    token_ids = torch.tensor([[0] * pad + row["prompt"] for pad, row in zip(padding, batch, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
    drawn = model.generate(
        token_ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=max(limits),
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([Limits(width, limits)]) if len(set(limits)) > 1 else None,
    )
    return (row[width : width + limit].tolist() for row, limit in zip(drawn, limits, strict=True))


while True:
    number = rounds.next_round()
    started_s = time.perf_counter()
    drawn: list[list[int]] = [[] for _ in requests]
    with torch.inference_mode():
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            for index, ids in zip(batch, complete([requests[index] for index in batch]), strict=True):
                drawn[index] = ids
    seconds = time.perf_counter() - started_s
    if number == 0:
        (folder / "transformers.json").write_text(json.dumps(drawn))
    rounds.answer(tokens=sum(map(len, drawn)), seconds=seconds)
