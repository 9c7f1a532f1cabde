"""Pinning: every moving reference of a run is resolved when it is accepted, and nothing downstream asks back."""

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from sqlalchemy.orm import Session

from tunix_rt_api.datasets.service import built_dataset, read_manifest
from tunix_rt_api.deps import Services
from tunix_rt_api.runs.fits import ADAPTER, BASE, TEACHER
from tunix_rt_api.runs.modelpins import Kept, ModelPin, pin_models, take_directories
from tunix_rt_common.db.models import DatasetRecord, EvaluationRecord
from tunix_rt_common.endpoint import check_allowed
from tunix_rt_common.engines import TUNIX_MISSING, check_tunix_spec
from tunix_rt_common.errors import EngineMissing, UnusableData
from tunix_rt_common.promotion import current_alias
from tunix_rt_common.settings import Settings
from tunix_rt_common.specs import PREFERENCE_METHODS, RunSpec, TrainSpec
from tunix_rt_common.version import CODE_VERSION


@dataclass(frozen=True)
class DatasetPin:
    """A dataset version, by content."""

    name: str
    version: int
    manifest_sha256: str
    dataset_sha256: str


@dataclass(frozen=True)
class BaselinePin:
    """The version to beat, and what is known of it."""

    version: int
    version_id: str
    manifest_sha256: str
    report_sha256: str | None


@dataclass(frozen=True)
class Pins:
    """All that a run stands on."""

    dataset: DatasetPin
    eval_dataset: DatasetPin
    base_model: ModelPin
    teacher: ModelPin | None
    adapter: ModelPin | None
    baseline: BaselinePin | None
    model_name: str
    code_version: str = CODE_VERSION


def pin(
    session: Session, services: Services, spec: RunSpec, *, kept: Kept = "all"
) -> tuple[DatasetRecord, dict[str, Any]]:
    """The run's dataset row and its pins, as JSON; `InvalidInput` names the field that points to nothing.

    Directories come first: storing them may take a while, and no database lock is held before the first query. They
    are checked, whatever is kept of them.
    """
    check_engine(services.settings, spec.train)
    if spec.evaluate and spec.evaluate.endpoint:
        check_allowed(services.settings.endpoint_urls, spec.evaluate.endpoint.url)
    taken = take_directories(services, spec, kept)
    dataset = built_dataset(session, spec.dataset, "dataset")
    eval_reference = spec.evaluate.dataset if spec.evaluate else None
    eval_dataset = built_dataset(session, eval_reference, "evaluate.dataset") if eval_reference else dataset
    _need_rows(services, dataset, eval_dataset, spec)
    models = pin_models(session, services, spec, taken, kept)
    model_name = spec.model_name or dataset.name
    pins = Pins(
        dataset=pin_dataset(dataset),
        eval_dataset=pin_dataset(eval_dataset),
        base_model=models[BASE],
        teacher=models.get(TEACHER),
        adapter=models.get(ADAPTER),
        baseline=pin_baseline(session, model_name, spec.alias),
        model_name=model_name,
    )
    return dataset, asdict(pins)


def check_engine(settings: Settings, spec: TrainSpec) -> None:
    """Refuse an engine that is not installed, with the command that installs it, and what it does not do."""
    if spec.engine == "tunix":
        if settings.tunix_python is None and find_spec("tunix") is None:
            raise EngineMissing(TUNIX_MISSING)
        check_tunix_spec(spec)


def _need_rows(services: Services, dataset: DatasetRecord, eval_dataset: DatasetRecord, spec: RunSpec) -> None:
    """Refuse a run that could not begin, and one that nobody could judge once it is trained."""
    train, evaluate = read_manifest(services.store, dataset).splits["train"], spec.evaluate
    if not train.rows:
        raise UnusableData(
            f"{dataset.name}@{dataset.version} has no rows in its train split: build it with smaller "
            "validation and test fractions",
            field="dataset",
        )
    if spec.train.method in PREFERENCE_METHODS and not train.pairs:
        raise UnusableData(
            f"{dataset.name}@{dataset.version} has no preference pairs in its train split, which {spec.train.method} "
            "learns from: import traces with `rejected` and build it again, or train with sft",
            field="dataset",
        )
    if evaluate and not read_manifest(services.store, eval_dataset).splits[evaluate.split].rows:
        raise UnusableData(
            f"{eval_dataset.name}@{eval_dataset.version} has no rows in its {evaluate.split} split: build it with a "
            f"larger {evaluate.split} fraction, judge on another split or dataset, or ask for no evaluation (null)",
            field="evaluate.split",
        )


def pin_dataset(dataset: DatasetRecord) -> DatasetPin:
    """A built dataset, by content."""
    assert dataset.manifest_sha256 and dataset.dataset_sha256  # noqa: S101, PT018
    return DatasetPin(dataset.name, dataset.version, dataset.manifest_sha256, dataset.dataset_sha256)


def pin_baseline(session: Session, model_name: str, alias: str) -> BaselinePin | None:
    """Whoever holds the alias now."""
    current = current_alias(session, model_name, alias)
    if current is None:
        return None
    evaluation = session.get(EvaluationRecord, current.evaluation_id) if current.evaluation_id else None
    report_sha256 = evaluation.report_sha256 if evaluation else None
    return BaselinePin(current.version, str(current.id), current.manifest_sha256, report_sha256)
