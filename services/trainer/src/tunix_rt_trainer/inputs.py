"""What a run stands on, from its pins: rows, models, tokenizer, template, and the digests of them all."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, PyTree

from tunix_rt_common.chat import ChatTemplate, end_of_turn
from tunix_rt_common.datasets import DatasetManifest, DatasetRow, Split, read_rows
from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.specs import RunSpec, TrainSpec
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder
from tunix_rt_common.vocabulary import check_same_vocabulary, read_vocabulary
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import PRESETS
from tunix_rt_modeling.huggingface import LoadedModel
from tunix_rt_modeling.lora import read_peft
from tunix_rt_modeling.tokenizer import TOKENIZER_FILE, byte_tokenizer
from tunix_rt_modeling.transformer import init_params
from tunix_rt_trainer.engine.checkpoints import Inputs, spec_sha256
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.state import Teacher


@dataclass(frozen=True)
class RunInputs:
    """All that training reads. Where it goes on from an adapter, `spec` has that one's rank, alpha and targets."""

    spec: TrainSpec
    model: LoadedModel
    base_name: str
    adapter: PyTree[Array] | None
    teacher: Teacher | None
    template: ChatTemplate
    train_rows: Sequence[DatasetRow]
    validation_rows: Sequence[DatasetRow]
    digests: Inputs


def load_inputs(store: ArtifactStore, spec: RunSpec, pins: dict[str, Any], scratch: Path) -> RunInputs:
    """Fetch and verify the pinned inputs.

    Raises:
        UnusableModel: a model's directory is malformed, or does not fit its config or the base model.
    """
    manifest = store.get_document(DatasetManifest, pins["dataset"]["manifest_sha256"])
    model = _base_model(store, pins["base_model"], spec.train.seed, scratch)
    tokenizer = model.tokenizer
    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    teacher = _teacher(store, spec.train, pins.get("teacher"), model, scratch)
    train, adapter = _adapted(store, spec.train, pins.get("adapter"), model, scratch)
    return RunInputs(
        spec=train,
        model=ending_turns(model, template),
        base_name=pins["base_model"]["name"],
        adapter=adapter,
        teacher=teacher,
        template=template,
        train_rows=_rows(store, manifest, "train"),
        validation_rows=_rows(store, manifest, "validation"),
        digests=Inputs(
            spec_sha256=spec_sha256(spec.train),
            dataset_sha256=manifest.dataset_sha256,
            tokenizer_sha256=_files_sha256(tokenizer.files()),
            base_model_sha256=_models_sha256(pins, spec.train.seed),
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
    return huggingface.load(_fetched(store, pin, scratch / "base-model"))


def _teacher(
    store: ArtifactStore, spec: TrainSpec, pin: dict[str, Any] | None, model: LoadedModel, scratch: Path
) -> Teacher | None:
    """The model to learn from, where there is one.

    Raises:
        UnusableModel: it has another vocabulary than the model.
    """
    if pin is None:
        return None
    teacher = huggingface.load(_fetched(store, pin, scratch / "teacher"))
    ours, theirs = (
        read_vocabulary(one.config.vocab_size, one.tokenizer.files()[TOKENIZER_FILE]) for one in (model, teacher)
    )
    check_same_vocabulary(ours, theirs, teacher_name=pin["name"])
    return Teacher(on_device(teacher.config, spec), teacher.params)


def _adapted(
    store: ArtifactStore, spec: TrainSpec, pin: dict[str, Any] | None, model: LoadedModel, scratch: Path
) -> tuple[TrainSpec, PyTree[Array] | None]:
    """The adapter that training goes on from, and the spec with its rank, alpha, targets and scaling.

    Raises:
        UnusableModel: it does not fit the model.
    """
    if pin is None or spec.lora is None:
        return spec, None
    try:
        adapter, own = read_peft(_fetched(store, pin, scratch / "adapter"), model.config)
    except UnusableModel as error:
        raise UnusableModel(str(error), field="train.lora.adapter") from error
    lora = own.model_copy(update={"base": spec.lora.base})
    return spec.model_copy(update={"lora": lora}), adapter


def _fetched(store: ArtifactStore, pin: dict[str, Any], folder: Path) -> Path:
    fetch_folder(store, store.get_document(FolderManifest, pin["manifest_sha256"]), folder)
    return folder


def _models_sha256(pins: dict[str, Any], seed: int) -> str:
    base = pins["base_model"]
    others = [pin["manifest_sha256"] for pin in (pins.get("teacher"), pins.get("adapter")) if pin]
    names = [base["manifest_sha256"] or f"preset {base['preset']} from seed {seed}", *others]
    return hashlib.sha256(" ".join(names).encode()).hexdigest()


def _files_sha256(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
