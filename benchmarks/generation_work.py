"""The work of the generation comparison: a small Llama with random weights, and prompts with the lengths to draw."""

import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import jax
import numpy as np
from training_work import CONFIG

from tunix_rt_modeling import huggingface
from tunix_rt_modeling.batchplan import Request
from tunix_rt_modeling.tokenizer import Tokenizer, load_tokenizer
from tunix_rt_modeling.transformer import init_params

PROMPT_TOKENS, NEW_TOKENS = 64, 128
ROUNDS_OF_ROWS = 4


@dataclass(frozen=True)
class Case:
    """What is to be completed, `batch_size` rows side by side."""

    name: str
    batch_size: int
    requests: tuple[Request, ...]


def write_work(data: Path, folder: Path) -> None:
    """Write the model as a directory that transformers reads too, and a file of cases."""
    tokenizer = load_tokenizer(data / "tokenizers" / "minimind-6400")
    huggingface.save(folder, CONFIG, init_params(CONFIG, jax.random.key(0)), tokenizer)
    cases = [alike(rows) for rows in (1, 16, 64)] + [questions(data, tokenizer, rows) for rows in (1, 16, 64)]
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))


def read_case(folder: Path, name: str) -> Case:
    """The case of that name."""
    cases = json.loads((folder / "cases.json").read_text())
    (case,) = (case for case in cases if case["name"] == name)
    requests = (Request(**request | {"prompt": tuple(request["prompt"])}) for request in case["requests"])
    return Case(name, case["batch_size"], tuple(requests))


def alike(rows: int) -> Case:
    """One batch of rows of one length."""
    prompts = np.random.default_rng(0).integers(3, CONFIG.vocab_size, (rows, PROMPT_TOKENS)).tolist()
    requests = (Request(tuple(prompt), 0, NEW_TOKENS) for prompt in prompts)
    return Case(f"{rows} alike", rows, tuple(requests))


def questions(data: Path, tokenizer: Tokenizer, rows: int) -> Case:
    """GSM8K questions, four times as many as rows (eight at the least), each to its own answer's length.

    A model with random weights emits no end token, so a row's end token is put where the answer ends.
    """
    with (data / "gsm8k" / "test.jsonl").open() as lines:
        records = [json.loads(line) for line in islice(lines, max(8, ROUNDS_OF_ROWS * rows))]
    texts = [(tokenizer.encode(record["question"]), tokenizer.encode(record["answer"])) for record in records]
    requests = (Request(tuple(question), 0, len(answer) + 1) for question, answer in texts)
    return Case(f"{rows} questions", rows, tuple(requests))
