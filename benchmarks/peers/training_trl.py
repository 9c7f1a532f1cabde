"""TRL's SFTTrainer with packing, on the same token ids; its other settings are its own defaults."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rounds
from datasets import Dataset
from llama import small_llama
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

data_folder, work, steps = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
packing = sys.argv[4] == "packed"


class Rounds(TrainerCallback):
    """Ends a round after its steps, and begins the next when told."""

    def __init__(self) -> None:
        self.tokens, self.left = 0, rounds.WARM_UP_STEPS
        rounds.next_round()
        self.started_s = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer after each step."""
        self.left -= 1
        if self.left == 0:
            rounds.answer(tokens=self.tokens, seconds=time.perf_counter() - self.started_s)
            rounds.next_round()
            self.tokens, self.left, self.started_s = 0, steps, time.perf_counter()


class CountingTrainer(SFTTrainer):
    """Counts the tokens that are no padding."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Count, then go on."""
        mask = inputs.get("attention_mask")
        turns.tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
        return super().compute_loss(model, inputs, *args, **kwargs)


turns = Rounds()
trainer = CountingTrainer(
    model=small_llama(),
    args=SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=8,
        max_length=512,
        packing=packing,
        max_steps=100_000,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    ),
    train_dataset=Dataset.from_list([json.loads(line) for line in (work / "rows.jsonl").open()]),
    processing_class=AutoTokenizer.from_pretrained(data_folder / "tokenizers" / "minimind-6400"),
    callbacks=[turns],
)
trainer.train()
