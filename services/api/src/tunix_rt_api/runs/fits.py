"""Whether the models that a run names go together, as far as their files tell without JAX."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tunix_rt_api.runs.modelfiles import ModelFiles
from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.peft import ADAPTER_CONFIG, check_adapter, check_rank, kernels_of, read_adapter_config
from tunix_rt_common.specs import LoraSpec, TrainSpec
from tunix_rt_common.vocabulary import Vocabulary, check_same_vocabulary, read_vocabulary

BASE, TEACHER, ADAPTER = "base_model", "train.teacher", "train.lora.adapter"


def check_fit(spec: TrainSpec, models: Mapping[str, ModelFiles]) -> None:
    """Refuse an adapter or a rank that the base model has no room for, and a teacher of another vocabulary.

    `models` holds the files by the field that names them. What is missing there, such as a preset, which has no files,
    is for the run itself to check.

    Raises:
        UnusableModel: with the field.
    """
    base = models.get(BASE)
    if base is None:
        return
    if spec.lora:
        _check_lora(spec.lora, base, models.get(ADAPTER))
    if TEACHER in models:
        _check_teacher(base, models[TEACHER])


def _check_lora(spec: LoraSpec, base: ModelFiles, adapter: ModelFiles | None) -> None:
    kernels = kernels_of(base.tensors())
    if adapter is not None:
        with _faults_of(ADAPTER):
            check_adapter(adapter.tensors(), read_adapter_config(adapter.document(ADAPTER_CONFIG)), kernels)
    elif spec.adapter is None:
        check_rank(spec, kernels)


def _check_teacher(base: ModelFiles, teacher: ModelFiles) -> None:
    ours, theirs = _vocabulary(base, BASE), _vocabulary(teacher, TEACHER)
    if ours and theirs:
        check_same_vocabulary(ours, theirs, teacher_name=teacher.name)


def _vocabulary(model: ModelFiles, field: str) -> Vocabulary | None:
    """The model's words; None where its configuration does not say how many, which loading it will refuse."""
    size = model.document("config.json").get("vocab_size")
    with _faults_of(field):
        return read_vocabulary(size, model.content("tokenizer.json")) if type(size) is int else None


@contextmanager
def _faults_of(field: str) -> Iterator[None]:
    try:
        yield
    except UnusableModel as error:
        raise UnusableModel(str(error), field=field) from None
