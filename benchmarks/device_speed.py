"""Training on an accelerator beside TRL, and beside a large matrix product.

Llama-3.2-1b's shape in bfloat16, full rows of 2,048 tokens, eight to a step.

    python benchmarks/device_speed.py [DATA] [MODEL]

Where there is no accelerator, the rows say "not measured". MODEL `tiny` tries the script on any device; its numbers
mean nothing and are not recorded.
"""

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the contenders share the device's memory

import jax
from comparison import DATA, Contender, take_turns
from device_work import WORK, write_work
from measurement import Measurement, record, show, show_ratios

STEPS, ROUNDS = 10, 3
REAL = "llama-3.2-1b"
OURS, PEER = "ours", "TRL SFTTrainer, packed"
CONTENDERS = (Contender(OURS, "device_ours.py"), Contender(PEER, "device_trl.py", "torch"))
SUBJECTS = (f"training on an accelerator: {PEER}", "training on an accelerator, arithmetic")


def compare(data: Path, model: str) -> list[Measurement]:
    """Tokens per second of the peer (median of the rounds) beside ours, and our arithmetic beside a plain product's."""
    with tempfile.TemporaryDirectory() as folder:
        write_work(WORK[model], Path(folder))
        measured = take_turns(CONTENDERS, [str(data), folder, str(STEPS), model], ROUNDS, Path(folder))
    speed = {name: median(turn["tokens"] / turn["seconds"] for turn in turns) for name, turns in measured.items()}
    arithmetic = median(turn["flop"] / turn["seconds"] for turn in measured[OURS])
    product = median(turn["product_flops_per_s"] for turn in measured[OURS])
    return [
        Measurement(SUBJECTS[0], "tokens/s", speed[PEER], speed[OURS], "ours"),
        Measurement(SUBJECTS[1], "TFLOP/s", arithmetic / 1e12, product / 1e12, "a plain product"),
    ]


if __name__ == "__main__":
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    model = sys.argv[2] if len(sys.argv) > 2 else REAL
    if model == REAL and jax.default_backend() == "cpu":
        results = [Measurement(SUBJECTS[0], "tokens/s"), Measurement(SUBJECTS[1], "TFLOP/s")]
    else:
        results = compare(data, model)
    if model == REAL:
        record(results)
    show(results)
    show_ratios(results[:1])
