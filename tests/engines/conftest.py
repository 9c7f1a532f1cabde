"""google-tunix where it is installed, and a small run that both engines can train."""

import json
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import pytest

from tunix_rt_common.datasetfolder import read_manifest, read_split, write_dataset
from tunix_rt_common.specs import DatasetSpec, SftSpec
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import ModelConfig
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_modeling.transformer import init_params
from tunix_rt_trainer.encoding import encode_splits
from tunix_rt_trainer.engine.loop import TrainingData
from tunix_rt_trainer.inputs import Description, ModelFolder, Models, Weights, describe_inputs, load_weights
from tunix_rt_trainer.tokencache import TokenCache

VARIABLE = "PEER_TUNIX_PYTHON"
SMALL = {
    "vocab_size": 263,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "max_positions": 64,
    "eos_token_ids": (258,),
}
SPEC = SftSpec.model_validate(
    {
        "epochs": 1000.0,
        "max_steps": 12,
        "batch_size": 6,
        "max_tokens": 64,
        "validate_every": 5,
        "precision": "float32",
        "optimizer": {
            "learning_rate": 3e-3,
            "weight_decay": 0.1,
            "clip_norm": 0.5,
            "schedule": {"kind": "cosine", "warmup_steps": 3},
        },
        "seed": 11,
    }
)


@pytest.fixture(scope="session")
def tunix_python() -> str:
    """The interpreter of google-tunix's environment."""
    python = os.environ.get(VARIABLE)
    if not python:
        pytest.fail(f"google-tunix is not installed: `make test-tunix` does that, or {VARIABLE} names its interpreter")
    assert Path(python).exists(), f"{VARIABLE} names {python}, which is not there"
    return python


Inputs = tuple[Description, Weights, TrainingData]


@dataclass
class Heard:
    """A voice that remembers."""

    leaving: threading.Event = field(default_factory=threading.Event)
    steps: dict[int, dict[str, float | None]] = field(default_factory=dict)
    stories: list[str] = field(default_factory=list)

    def progress(self, step: int, total_steps: int | None = None, **numbers: float | None) -> None:
        self.steps[step] = numbers

    def waits(self) -> None:
        """It has nothing to prove."""

    def story(self, kind: str, message: str, **detail: Any) -> None:
        self.stories.append(kind)

    def span(self, name: str, **attributes: Any) -> nullcontext[None]:
        return nullcontext()

    def annotate(self, **attributes: Any) -> None:
        """Nobody looks."""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    steps = ([{"i": 0, "type": "sum", "content": "x" * (number % 7) + "."}] for number in range(40))
    records = ({"prompt": f"{n}+1=", "steps": worked, "final_answer": str(n)} for n, worked in enumerate(steps))
    traces = folder / "traces.txt"
    traces.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_dataset(traces, DatasetSpec(name="sums", validation_fraction=0.2), folder)
    return folder


@pytest.fixture
def inputs_of(dataset: Path, tmp_path: Path) -> Callable[..., Inputs]:
    """What a run on a small model with random weights reads."""

    def make(spec: SftSpec = SPEC, **traits: Any) -> Inputs:
        config, manifest = ModelConfig(**SMALL | traits), read_manifest(dataset)
        huggingface.save(tmp_path / "base", config, init_params(config, jax.random.key(2)), byte_tokenizer())
        models = Models(base=ModelFolder("small", tmp_path / "base", "0" * 64))
        described = describe_inputs(
            spec,
            models,
            dataset_sha256=manifest.dataset_sha256,
            train_rows=read_split(dataset, manifest, "train"),
            validation_rows=read_split(dataset, manifest, "validation"),
        )
        return (
            described,
            load_weights(described, models),
            encode_splits(Heard(), described, TokenCache(dataset / "tokens")),
        )

    return make
