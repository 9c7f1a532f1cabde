"""What a run stands on, from its pins: rows, models, tokenizer, template, and the digests of them all.

Weights come last: what can be refused without them is refused before they are read.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, PyTree

from tunix_rt_common.chat import ChatTemplate, end_of_turn
from tunix_rt_common.datasets import DatasetManifest, DatasetRow, Split, read_rows
from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.peft import ADAPTER_CONFIG, read_adapter_config
from tunix_rt_common.specs import RunSpec, TrainSpec
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder
from tunix_rt_common.vocabulary import check_same_vocabulary, read_vocabulary
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.config import PRESETS, ModelConfig
from tunix_rt_modeling.directory import read_json
from tunix_rt_modeling.lora import read_peft
from tunix_rt_modeling.tokenizer import TOKENIZER_FILE, Tokenizer, byte_tokenizer
from tunix_rt_modeling.transformer import init_params
from tunix_rt_trainer.engine.checkpoints import Inputs, spec_sha256
from tunix_rt_trainer.engine.device import on_device
from tunix_rt_trainer.engine.state import Teacher

ADAPTER_FIELD = "train.lora.adapter"
WEIGHTS_SUFFIX = ".safetensors"
Pin = dict[str, Any]


@dataclass(frozen=True)
class Description:
    """All that training reads but the weights.

    Where it goes on from an adapter, `spec` has that one's rank, alpha and targets.
    """

    spec: TrainSpec
    config: ModelConfig
    tokenizer: Tokenizer
    template: ChatTemplate
    teacher: ModelConfig | None
    base_name: str
    train_rows: Sequence[DatasetRow]
    validation_rows: Sequence[DatasetRow]
    digests: Inputs


@dataclass(frozen=True)
class Weights:
    """What training starts from, and whom it learns from."""

    params: PyTree[Array]
    adapter: PyTree[Array] | None
    teacher: Teacher | None


def describe_inputs(store: ArtifactStore, spec: RunSpec, pins: dict[str, Any], scratch: Path) -> Description:
    """Fetch and verify the pinned inputs, leaving out the weights.

    Raises:
        UnusableModel: a model's description is malformed, or does not fit the base model's.
    """
    manifest = store.get_document(DatasetManifest, pins["dataset"]["manifest_sha256"])
    config, tokenizer = _model(store, pins["base_model"], scratch / "base-model")
    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    return Description(
        spec=_adapted(store, spec.train, pins.get("adapter"), scratch / "adapter"),
        config=ending_turns(config, tokenizer, template),
        tokenizer=tokenizer,
        template=template,
        teacher=_teacher(store, pins.get("teacher"), config, tokenizer, scratch / "teacher"),
        base_name=pins["base_model"]["name"],
        train_rows=_rows(store, manifest, "train"),
        validation_rows=_rows(store, manifest, "validation"),
        digests=Inputs(
            spec_sha256=spec_sha256(spec.train),
            dataset_sha256=manifest.dataset_sha256,
            tokenizer_sha256=_files_sha256(tokenizer.files()),
            base_model_sha256=_models_sha256(pins, spec.train.seed),
        ),
    )


def load_weights(store: ArtifactStore, described: Description, pins: dict[str, Any], scratch: Path) -> Weights:
    """Fetch and read the weights, into the folders where `describe_inputs` has put what describes them.

    Raises:
        UnusableModel: they are malformed, or do not fit their config or the base model.
    """
    base, adapter, teacher = pins["base_model"], pins.get("adapter"), pins.get("teacher")
    seed, learned, taught = described.spec.seed, None, None
    params = _params(store, base, described.config, seed, scratch / "base-model")
    if adapter:
        folder = _fetch(store, adapter, scratch / "adapter", weights=True)
        with _faults_of(ADAPTER_FIELD):
            learned, _ = read_peft(folder, described.config)
    if teacher and described.teacher:
        config = on_device(described.teacher, described.spec)
        taught = Teacher(config, _params(store, teacher, config, seed, scratch / "teacher"))
    return Weights(params, learned, taught)


def ending_turns(config: ModelConfig, tokenizer: Tokenizer, template: ChatTemplate) -> ModelConfig:
    """The config with its template's end of turn among its end tokens, where that is a token of its own.

    Training teaches to end replies with it. A base model under a chat template does not list it, and whoever serves
    the trained weights would generate past the end.
    """
    token_id = tokenizer.added_id(end_of_turn(template))
    ends = config.eos_token_ids
    if token_id is None or token_id in ends:
        return config
    return config.model_copy(update={"eos_token_ids": (*ends, token_id)})


def _model(store: ArtifactStore, pin: Pin, folder: Path) -> tuple[ModelConfig, Tokenizer]:
    if pin["preset"]:
        return PRESETS[pin["preset"]], byte_tokenizer()
    return huggingface.load_description(_fetch(store, pin, folder, weights=False))


def _params(store: ArtifactStore, pin: Pin, config: ModelConfig, seed: int, folder: Path) -> PyTree[Array]:
    if pin["preset"]:
        return init_params(config, jax.random.key(seed))
    return huggingface.load_params(_fetch(store, pin, folder, weights=True), config)


def _teacher(
    store: ArtifactStore, pin: Pin | None, config: ModelConfig, tokenizer: Tokenizer, folder: Path
) -> ModelConfig | None:
    """The model to learn from, where there is one.

    Raises:
        UnusableModel: it has another vocabulary than the model.
    """
    if pin is None:
        return None
    teacher, its_tokenizer = _model(store, pin, folder)
    ours = read_vocabulary(config.vocab_size, tokenizer.files()[TOKENIZER_FILE])
    theirs = read_vocabulary(teacher.vocab_size, its_tokenizer.files()[TOKENIZER_FILE])
    check_same_vocabulary(ours, theirs, teacher_name=pin["name"])
    return teacher


def _adapted(store: ArtifactStore, spec: TrainSpec, pin: Pin | None, folder: Path) -> TrainSpec:
    """The spec, with rank, alpha, targets and scaling of the adapter that training goes on from."""
    if pin is None or spec.lora is None:
        return spec
    with _faults_of(ADAPTER_FIELD):
        own = read_adapter_config(read_json(_fetch(store, pin, folder, weights=False), ADAPTER_CONFIG))
    return spec.model_copy(update={"lora": own.model_copy(update={"base": spec.lora.base})})


@contextmanager
def _faults_of(field: str) -> Iterator[None]:
    try:
        yield
    except UnusableModel as error:
        raise UnusableModel(str(error), field=field) from error


def _fetch(store: ArtifactStore, pin: Pin, folder: Path, *, weights: bool) -> Path:
    """The folder, with the weights of a pinned directory or with all its other files."""
    files = store.get_document(FolderManifest, pin["manifest_sha256"]).files
    wanted = tuple(entry for entry in files if entry.path.endswith(WEIGHTS_SUFFIX) == weights)
    fetch_folder(store, FolderManifest(files=wanted), folder)
    return folder


def _rows(store: ArtifactStore, manifest: DatasetManifest, split: Split) -> list[DatasetRow]:
    shards = [shard for shard in manifest.shards if shard.split == split]
    return [row for shard in shards for row in read_rows(store.read(shard.sha256).splitlines())]


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
