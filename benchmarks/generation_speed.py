"""Drawn tokens per second, greedy, beside transformers' `generate`: prompts alike, and GSM8K questions of all lengths.

    python benchmarks/generation_speed.py [DATA] [CASE ...]

Both complete the same prompts with the same weights in float32, and must draw the same ids.
"""

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from comparison import Contender, take_turns
from generation_work import write_work
from measurement import Measurement, record, show

DATA = Path(__file__).parents[2] / "shared" / "data"
CASES = ("1 alike", "16 alike", "64 alike", "1 questions", "16 questions", "64 questions")
ROUNDS = 3
OURS, PEER = "ours", "transformers generate"
CONTENDERS = (
    Contender(OURS, "generation_ours.py"),
    Contender(PEER, "generation_transformers.py", "torch"),
)


def compare(data: Path, cases: Sequence[str]) -> list[Measurement]:
    """Tokens per second of the peer in each case, the median of the rounds, with ours beside it."""
    with tempfile.TemporaryDirectory() as folder:
        write_work(data, Path(folder))
        return [_compare(Path(folder), case) for case in cases]


def _compare(folder: Path, case: str) -> Measurement:
    measured = take_turns(CONTENDERS, [str(folder), case], ROUNDS, folder)
    speed = {name: median(turn["tokens"] / turn["seconds"] for turn in turns) for name, turns in measured.items()}
    drawn, expected = (json.loads((folder / f"{name}.json").read_text()) for name in ("ours", "transformers"))
    assert drawn == expected, f"{sum(map(list.__ne__, drawn, expected))} of {len(drawn)} rows differ"
    return Measurement(f"generation, {case}: {PEER}", "tokens/s", speed[PEER], speed[OURS], "ours")


if __name__ == "__main__":
    results = compare(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA, sys.argv[2:] or CASES)
    record(results)
    show(results)
    for row in results:
        assert row.value
        assert row.limit
        print(f"{row.subject}: ours is {row.limit / row.value:.2f} times as fast")
