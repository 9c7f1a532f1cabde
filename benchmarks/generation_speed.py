"""Drawn tokens per second, greedy, beside transformers' `generate`: prompts alike, and GSM8K questions of all lengths.

    python benchmarks/generation_speed.py [DATA] [CASE ...]

Both complete the same prompts with the same weights in float32; rows that draw other ids are counted.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from comparison import DATA, Contender, take_turns
from generation_work import write_work
from measurement import Measurement, record, show, show_ratios

CASES = ("1 alike", "16 alike", "64 alike", "1 questions", "16 questions", "64 questions")
ROUNDS = 3
OURS, PEER = "ours", "transformers generate"
CONTENDERS = (
    Contender(OURS, "generation_ours.py"),
    Contender(PEER, "generation_transformers.py", "torch"),
)


def compare(data: Path, cases: Sequence[str]) -> list[Measurement]:
    """Of each case, tokens per second of the peer (median of the rounds) beside ours, and how many rows differ."""
    with tempfile.TemporaryDirectory() as folder:
        write_work(data, Path(folder))
        return [row for case in cases for row in _compare(Path(folder), case)]


def _compare(folder: Path, case: str) -> list[Measurement]:
    measured = take_turns(CONTENDERS, [str(folder), case], ROUNDS, folder)
    speed = {name: median(turn["tokens"] / turn["seconds"] for turn in turns) for name, turns in measured.items()}
    drawn, expected = (json.loads((folder / f"{name}.json").read_text()) for name in ("ours", "transformers"))
    differing = sum(ours != theirs for ours, theirs in zip(drawn, expected, strict=True))
    return [
        Measurement(f"generation, {case}: {PEER}", "tokens/s", speed[PEER], speed[OURS], "ours"),
        Measurement(f"generation, {case}: rows of {len(drawn)} that draw other ids", "rows", differing, 0, "wanted"),
    ]


if __name__ == "__main__":
    results = compare(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA, sys.argv[2:] or CASES)
    record(results)
    show(results)
    show_ratios(results)
