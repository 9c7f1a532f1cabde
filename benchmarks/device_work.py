"""The work of the comparison on an accelerator: models by name, and full rows of several texts each."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling.config import Llama3Rope, ModelConfig, Rope
from tunix_rt_modeling.config_json import write_config_json
from tunix_rt_trainer.engine.examples import EncodedRows, EncodingReport
from tunix_rt_trainer.engine.packing import best_fit

TEXTS_IN_A_ROW, SEQUENCES = 8, 256


@dataclass(frozen=True)
class Work:
    """A model, and batches of `batch_size` rows of `tokens`."""

    config: ModelConfig
    batch_size: int
    tokens: int

    @property
    def spec(self) -> SftSpec:
        """How it is trained."""
        return SftSpec(batch_size=self.batch_size, max_tokens=self.tokens, packing=True, epochs=10_000.0)

    def rows(self) -> EncodedRows:
        """Texts of equal length that fill their rows, all of it trained but their first tokens."""
        length, count = self.tokens // TEXTS_IN_A_ROW, SEQUENCES * TEXTS_IN_A_ROW
        drawn = np.random.default_rng(0).integers(0, self.config.vocab_size, (count, length)).astype(np.int32)
        weights = np.ones((count, length), np.float32)
        weights[:, 0] = 0
        report = EncodingReport(count, count, (), drawn.size, int(weights.sum()), 1.0, length)
        packs = best_fit([length] * count, self.tokens)
        return EncodedRows(tuple(map(str, range(count))), tuple(drawn), tuple(weights), report, packs)


WORK = {
    "llama-3.2-1b": Work(
        ModelConfig(
            vocab_size=128_256,
            hidden_size=2_048,
            intermediate_size=8_192,
            num_layers=16,
            num_heads=32,
            num_kv_heads=8,
            head_dim=64,
            max_positions=131_072,
            rope=Rope(
                theta=500_000.0,
                scaling=Llama3Rope(
                    factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=8_192
                ),
            ),
            tie_embeddings=True,
        ),
        batch_size=8,
        tokens=2_048,
    ),
    "tiny": Work(
        ModelConfig(
            vocab_size=6_400,
            hidden_size=64,
            intermediate_size=128,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            max_positions=512,
            tie_embeddings=True,
        ),
        batch_size=2,
        tokens=128,
    ),
}


def write_work(work: Work, folder: Path) -> None:
    """Write what the peer reads: the model's description, TRL's words for a batch, the token ids of the texts."""
    (folder / "config.json").write_text(json.dumps(write_config_json(work.config)))
    batch = {"per_device_train_batch_size": work.batch_size, "max_length": work.tokens}
    (folder / "batch.json").write_text(json.dumps(batch))
    with (folder / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({"input_ids": ids.tolist()}) + "\n" for ids in work.rows().token_ids)
