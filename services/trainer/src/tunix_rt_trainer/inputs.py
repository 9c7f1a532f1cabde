"""What a run stands on, from its pins: rows, base model, tokenizer, template, and the digests of them all."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from tunix_rt_common.chat import ChatTemplate, end_of_turn
from tunix_rt_common.datasets import DatasetManifest, DatasetRow, Split, read_rows
from tunix_rt_common.specs import RunSpec
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import PRESETS
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.tokenizer import byte_tokenizer
from tunix_rt_modeling.transformer import init_params
from tunix_rt_trainer.engine.checkpoints import Inputs, spec_sha256


@dataclass(frozen=True)
class RunInputs:
    """All that training reads."""

    model: LoadedModel
    template: ChatTemplate
    train_rows: Sequence[DatasetRow]
    validation_rows: Sequence[DatasetRow]
    digests: Inputs


def load_inputs(store: ArtifactStore, spec: RunSpec, pins: dict[str, Any], scratch: Path) -> RunInputs:
    """Fetch and verify the pinned inputs.

    Raises:
        UnusableModel: the base model's directory is malformed or does not fit its config.
    """
    manifest = store.get_document(DatasetManifest, pins["dataset"]["manifest_sha256"])
    model = _base_model(store, pins["base_model"], spec.train.seed, scratch)
    tokenizer = model.tokenizer
    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    return RunInputs(
        model=ending_turns(model, template),
        template=template,
        train_rows=_rows(store, manifest, "train"),
        validation_rows=_rows(store, manifest, "validation"),
        digests=Inputs(
            spec_sha256=spec_sha256(spec.train),
            dataset_sha256=manifest.dataset_sha256,
            tokenizer_sha256=_files_sha256(tokenizer.files()),
            base_model_sha256=_base_model_sha256(pins["base_model"], spec.train.seed),
        ),
    )


def ending_turns(model: LoadedModel, template: ChatTemplate) -> LoadedModel:
    """The model with its template's end of turn among its end tokens, where that is a token of its own.

    Training teaches to end replies with it. A base model under a chat template does not list it, and whoever serves
    the trained weights would generate past the end.
    """
    token_id = model.tokenizer.added_id(end_of_turn(template))
    ends = model.config.eos_token_ids
    if token_id is None or token_id in ends:
        return model
    return replace(model, config=model.config.model_copy(update={"eos_token_ids": (*ends, token_id)}))


def _rows(store: ArtifactStore, manifest: DatasetManifest, split: Split) -> list[DatasetRow]:
    shards = [shard for shard in manifest.shards if shard.split == split]
    return [row for shard in shards for row in read_rows(store.read(shard.sha256).splitlines())]


def _base_model(store: ArtifactStore, pin: dict[str, Any], seed: int, scratch: Path) -> LoadedModel:
    if pin["preset"]:
        config = PRESETS[pin["preset"]]
        return LoadedModel(config, init_params(config, jax.random.key(seed)), byte_tokenizer())
    folder = scratch / "base-model"
    fetch_folder(store, store.get_document(FolderManifest, pin["manifest_sha256"]), folder)
    return huggingface.load(folder)


def _base_model_sha256(pin: dict[str, Any], seed: int) -> str:
    name = pin["manifest_sha256"] or f"preset {pin['preset']} from seed {seed}"
    return hashlib.sha256(name.encode()).hexdigest()


def _files_sha256(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
