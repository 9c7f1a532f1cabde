"""The work of the training comparison: GSM8K's solutions as conversations, and a small Llama with random weights."""

import json
from itertools import islice
from pathlib import Path

import numpy as np

from tunix_rt_api.traces.importers import import_gsm8k
from tunix_rt_common.chat import ChatTemplate
from tunix_rt_common.datasets import row_from_trace
from tunix_rt_common.specs import SftSpec
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.tokenizer import load_tokenizer
from tunix_rt_trainer.engine.batches import training_batch
from tunix_rt_trainer.engine.examples import EncodedRows, encode_rows
from tunix_rt_trainer.engine.tokenise import tokenise

ROWS = 2_000
SPEC = SftSpec(batch_size=8, max_tokens=512, packing=True, epochs=100.0)
CONFIG = ModelConfig(
    vocab_size=6400,
    hidden_size=256,
    intermediate_size=1024,
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    max_positions=2048,
    tie_embeddings=True,
)
PACKED_STEPS = 32


def encoded_rows(data: Path) -> EncodedRows:
    """The first rows of GSM8K as training sees them."""
    tokenizer = load_tokenizer(data / "tokenizers" / "minimind-6400")
    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    with (data / "gsm8k" / "train.jsonl").open() as lines:
        rows = [row_from_trace(import_gsm8k(json.loads(line))) for line in islice(lines, ROWS)]
    return encode_rows(rows, tokenise(rows, tokenizer, template, SPEC), SPEC, CONFIG)


def write_work(data: Path, folder: Path) -> EncodedRows:
    """Write what the peers read: the rows' token ids, and batches that are packed already."""
    rows = encoded_rows(data)
    with (folder / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps({"input_ids": ids.tolist()}) + "\n" for ids in rows.token_ids)
    batches = [training_batch(rows, SPEC, step) for step in range(PACKED_STEPS)]
    np.savez(
        folder / "packed.npz",
        token_ids=np.stack([batch.token_ids[0] for batch in batches]),
        segments=np.stack([batch.segments[0] for batch in batches]),
    )
    return rows
