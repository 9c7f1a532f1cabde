"""TRL's SFTTrainer in rounds of steps; what it is not told is its own default."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import rounds
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Rounds(TrainerCallback):
    """Ends a round after its steps, and begins the next when told."""

    def __init__(self, steps: int) -> None:
        self.tokens, self.left, self._steps = 0, rounds.WARM_UP_STEPS, steps
        rounds.next_round()
        self._started_s = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Called by the trainer after each step."""
        self.left -= 1
        if self.left == 0:
            rounds.answer(tokens=self.tokens, seconds=time.perf_counter() - self._started_s)
            rounds.next_round()
            self.tokens, self.left, self._started_s = 0, self._steps, time.perf_counter()


class CountingTrainer(SFTTrainer):
    """Counts the tokens that are no padding."""

    turns: Rounds

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Count, then go on."""
        mask = inputs.get("attention_mask")
        self.turns.tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
        return super().compute_loss(model, inputs, *args, **kwargs)


def train(model: PreTrainedModel, rows: Path, tokenizer: Path, steps: int, **settings: Any) -> None:
    """Train on a file of token ids until there is no further round."""
    turns = Rounds(steps)
    trainer = CountingTrainer(
        model=model,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(),
            max_steps=100_000,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            **settings,
        ),
        train_dataset=Dataset.from_list([json.loads(line) for line in rows.open()]),
        processing_class=AutoTokenizer.from_pretrained(tokenizer),
        callbacks=[turns],
    )
    trainer.turns = turns
    trainer.train()
