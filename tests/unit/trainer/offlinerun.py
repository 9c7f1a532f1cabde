"""Sums to train on with no service beside the trainer, and what is to be trained on them."""

import json
from pathlib import Path
from typing import Any


def sums_spec(**train: Any) -> dict[str, Any]:
    """A run of a minute on a machine of any size."""
    common = {"epochs": 1000.0, "batch_size": 4, "max_tokens": 64, "checkpoint_every": 4, "seed": 3}
    return {"dataset": "sums", "base_model": "tiny", "train": common | train}


def write_sums(file: Path, count: int = 30) -> Path:
    """A file of traces, each of one step."""
    records = (
        {"prompt": f"{n}+1=", "steps": [{"i": 0, "type": "sum", "content": "one up"}], "final_answer": str(n + 1)}
        for n in range(count)
    )
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file
