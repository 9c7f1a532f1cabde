"""What a run stands on, wherever it comes from: rows, models, tokenizer, template, and the digests of them all.

Weights come last: what can be refused without them is refused before they are read.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
from jaxtyping import Array, PyTree

from tunix_rt_common.chat import ChatTemplate, end_of_turn
from tunix_rt_common.datasets import DatasetRow
from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.peft import ADAPTER_CONFIG, read_adapter_config
from tunix_rt_common.specs import TrainSpec
from tunix_rt_common.vocabulary import check_same_vocabulary, read_vocabulary
from tunix_rt_modeling import huggingface, sharding
from tunix_rt_modeling.config import PRESETS, ModelConfig
from tunix_rt_modeling.directory import read_json
from tunix_rt_modeling.lora import read_peft
from tunix_rt_modeling.nf4 import quantize_kernels
from tunix_rt_modeling.tokenizer import TOKENIZER_FILE, Tokenizer, byte_tokenizer
from tunix_rt_modeling.transformer import Params, init_params
from tunix_rt_trainer.engine.checkpoints import Inputs, spec_sha256
from tunix_rt_trainer.engine.device import mesh_of, on_device
from tunix_rt_trainer.engine.state import Teacher

ADAPTER_FIELD = "train.lora.adapter"


@dataclass(frozen=True)
class ModelFolder:
    """A model or adapter directory on this machine, and the digest that its content is known by."""

    name: str
    folder: Path
    sha256: str


@dataclass(frozen=True)
class Models:
    """What a run's models are read from; a base that is a preset's name has weights of the seed."""

    base: ModelFolder | str
    teacher: ModelFolder | None = None
    adapter: ModelFolder | None = None


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


def describe_inputs(
    spec: TrainSpec,
    models: Models,
    *,
    dataset_sha256: str,
    train_rows: Sequence[DatasetRow],
    validation_rows: Sequence[DatasetRow],
) -> Description:
    """Read what describes the models of a run, and put it together with its rows.

    Raises:
        UnusableModel: a model's description is malformed, or does not fit the base model's.
    """
    config, tokenizer = _model(models.base)
    template = ChatTemplate.of(tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token)
    return Description(
        spec=_adapted(spec, models.adapter),
        config=ending_turns(config, tokenizer, template),
        tokenizer=tokenizer,
        template=template,
        teacher=_teacher(models.teacher, config, tokenizer),
        base_name=models.base if isinstance(models.base, str) else models.base.name,
        train_rows=train_rows,
        validation_rows=validation_rows,
        digests=Inputs(
            spec_sha256=spec_sha256(spec),
            dataset_sha256=dataset_sha256,
            tokenizer_sha256=_files_sha256(tokenizer.files()),
            base_model_sha256=_models_sha256(models, spec.seed),
        ),
    )


def load_weights(described: Description, models: Models) -> Weights:
    """Read the weights of the models that were described.

    Raises:
        UnusableModel: they are malformed, or do not fit their config or the base model.
    """
    params, adapter, teacher = _params(models.base, described), None, None
    if models.adapter:
        with _faults_of(ADAPTER_FIELD):
            adapter, _ = read_peft(models.adapter.folder, described.config)
    if models.teacher and described.teacher:
        config = on_device(described.teacher, described.spec)
        put = _placing(described.spec, config)
        teacher = Teacher(config, huggingface.load_params(models.teacher.folder, config, put))
    return Weights(params, adapter, teacher)


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


def _model(base: ModelFolder | str) -> tuple[ModelConfig, Tokenizer]:
    if isinstance(base, str):
        return PRESETS[base], byte_tokenizer()
    return huggingface.load_description(base.folder)


def _params(base: ModelFolder | str, described: Description) -> PyTree[Array]:
    if isinstance(base, str):
        return init_params(described.config, jax.random.key(described.spec.seed))
    spec, config = described.spec, described.config
    in_4_bits = spec.lora is not None and spec.lora.base == "nf4"
    return huggingface.load_params(base.folder, config, _placing(spec, config, frozen_in_4_bits=in_4_bits))


def _placing(spec: TrainSpec, config: ModelConfig, *, frozen_in_4_bits: bool = False) -> huggingface.Put:
    """Where each leaf of a model goes as soon as it is read: no device ever holds more than its part."""
    mesh = mesh_of(spec)

    def put(part: Params) -> Params:
        small = quantize_kernels(part) if frozen_in_4_bits else part
        return huggingface.on_device(small) if mesh.size == 1 else sharding.place(mesh, config, small)

    return put


def _teacher(found: ModelFolder | None, config: ModelConfig, tokenizer: Tokenizer) -> ModelConfig | None:
    """The model to learn from, where there is one.

    Raises:
        UnusableModel: it has another vocabulary than the model.
    """
    if found is None:
        return None
    teacher, its_tokenizer = huggingface.load_description(found.folder)
    ours = read_vocabulary(config.vocab_size, tokenizer.files()[TOKENIZER_FILE])
    theirs = read_vocabulary(teacher.vocab_size, its_tokenizer.files()[TOKENIZER_FILE])
    check_same_vocabulary(ours, theirs, teacher_name=found.name)
    return teacher


def _adapted(spec: TrainSpec, found: ModelFolder | None) -> TrainSpec:
    """The spec, with rank, alpha, targets and scaling of the adapter that training goes on from."""
    if found is None or spec.lora is None:
        return spec
    with _faults_of(ADAPTER_FIELD):
        own = read_adapter_config(read_json(found.folder, ADAPTER_CONFIG))
    return spec.model_copy(update={"lora": own.model_copy(update={"base": spec.lora.base})})


@contextmanager
def _faults_of(field: str) -> Iterator[None]:
    try:
        yield
    except UnusableModel as error:
        raise UnusableModel(str(error), field=field) from error


def _models_sha256(models: Models, seed: int) -> str:
    base = f"preset {models.base} from seed {seed}" if isinstance(models.base, str) else models.base.sha256
    others = [found.sha256 for found in (models.teacher, models.adapter) if found]
    return hashlib.sha256(" ".join([base, *others]).encode()).hexdigest()


def _files_sha256(files: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
