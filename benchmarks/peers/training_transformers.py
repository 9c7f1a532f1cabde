"""The floor that a user would write: forward, backward, AdamW over full rows, by transformers on torch. No packing."""

import sys
import time
from pathlib import Path

import numpy as np
import rounds
import torch
from llama import small_llama

work, steps = Path(sys.argv[2]), int(sys.argv[3])
batches = torch.from_numpy(np.load(work / "packed.npz")["token_ids"]).long()
model = small_llama()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
step = 0
while True:
    count = steps if rounds.next_round() else rounds.WARM_UP_STEPS
    started_s = time.perf_counter()
    for _ in range(count):
        token_ids = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = model(input_ids=token_ids, labels=token_ids).loss
        loss.backward()
        optimizer.step()
        step += 1
    loss.item()
    rounds.answer(tokens=count * batches[0].numel(), seconds=time.perf_counter() - started_s)
