"""TRL's SFTTrainer with packing, on the same token ids."""

import sys
from pathlib import Path

from llama import small_llama
from trl_rounds import train

data_folder, work, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
train(
    small_llama(),
    work / "rows.jsonl",
    data_folder / "tokenizers" / "minimind-6400",
    steps,
    per_device_train_batch_size=8,
    max_length=512,
    packing=sys.argv[4] == "packed",
    learning_rate=1e-3,
    use_cpu=True,
    bf16=False,
)
