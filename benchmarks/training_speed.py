"""Useful tokens per second of a training step, beside what a user would pick instead.

Padding is not counted. Every contender trains the same small Llama in float32 on the same conversations, eight
sequences of 512 tokens to a step.
"""

import sys
import tempfile
from pathlib import Path
from statistics import median

from comparison import DATA, Contender, take_turns
from measurement import Measurement, record, show, show_ratios
from training_work import write_work

STEPS, ROUNDS = 5, 5
OURS = "training beside its peers"
CONTENDERS = (
    Contender(OURS, "training_ours.py"),
    Contender("TRL SFTTrainer, packed", "training_trl.py", "torch"),
    Contender("google-tunix PeftTrainer, full rows", "training_tunix.py", "tunix"),
    Contender("bare transformers step, full rows", "training_transformers.py", "torch"),
)


def compare(data: Path) -> list[Measurement]:
    """Tokens per second of each: the median of the rounds; ours beside each peer's."""
    with tempfile.TemporaryDirectory() as folder:
        rows = write_work(data, Path(folder))
        print(f"{len(rows.packs)} sequences, {rows.report.fill:.1%} full", file=sys.stderr)
        arguments = [str(data), folder, str(STEPS), "packed"]
        measured = take_turns(CONTENDERS, arguments, ROUNDS, Path(folder))
    speed = {name: median(turn["tokens"] / turn["seconds"] for turn in turns) for name, turns in measured.items()}
    return [
        Measurement(f"training: {name}", "tokens/s", speed[name], speed[OURS], "ours") for name in speed if name != OURS
    ]


if __name__ == "__main__":
    results = compare(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
    record(results)
    show(results)
    show_ratios(results)
