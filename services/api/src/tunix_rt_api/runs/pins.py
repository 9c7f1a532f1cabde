"""Pinning: every moving reference of a run is resolved when it is accepted, and nothing downstream asks back."""

import re
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from sqlalchemy.orm import Session

from tunix_rt_api.datasets.service import built_dataset, read_manifest
from tunix_rt_api.deps import Services
from tunix_rt_api.models.service import find_version
from tunix_rt_api.runs.modeldirs import check_model_directory, is_directory, store_model_directory
from tunix_rt_common.db.models import DatasetRecord, EvaluationRecord
from tunix_rt_common.endpoint import check_allowed
from tunix_rt_common.errors import EngineMissing, InvalidInput, NotFound, UnusableData
from tunix_rt_common.promotion import current_alias
from tunix_rt_common.specs import PRESET_NAMES, EvalSpec, RunSpec
from tunix_rt_common.version import CODE_VERSION

REGISTERED = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}@[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class DatasetPin:
    """A dataset version, by content."""

    name: str
    version: int
    manifest_sha256: str
    dataset_sha256: str


@dataclass(frozen=True)
class BaseModelPin:
    """Where training starts: a preset to be initialised from the seed, or a stored model directory."""

    name: str
    preset: str | None
    manifest_sha256: str | None


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
    base_model: BaseModelPin
    baseline: BaselinePin | None
    model_name: str
    code_version: str = CODE_VERSION


def pin(
    session: Session, services: Services, spec: RunSpec, *, rehearsal: bool = False
) -> tuple[DatasetRecord, dict[str, Any]]:
    """The run's dataset row and its pins, as JSON; `InvalidInput` names the field that points to nothing.

    The base model's directory comes first: storing it may take a while, and no database lock is held before the first
    query. A rehearsal checks the directory and leaves it unstored and unpinned.
    """
    check_engine(spec.train.engine)
    if spec.evaluate and spec.evaluate.endpoint:
        check_allowed(services.settings.endpoint_urls, spec.evaluate.endpoint.url)
    base_model = _base_model_directory(services, spec.base_model, rehearsal=rehearsal)
    dataset = built_dataset(session, spec.dataset, "dataset")
    eval_reference = spec.evaluate.dataset if spec.evaluate else None
    eval_dataset = built_dataset(session, eval_reference, "evaluate.dataset") if eval_reference else dataset
    _need_rows(services, dataset, eval_dataset, spec.evaluate)
    model_name = spec.model_name or dataset.name
    pins = Pins(
        dataset=_pin_dataset(dataset),
        eval_dataset=_pin_dataset(eval_dataset),
        base_model=base_model or _pin_registered(session, spec.base_model),
        baseline=_pin_baseline(session, model_name, spec.alias),
        model_name=model_name,
    )
    return dataset, asdict(pins)


def check_engine(engine: str) -> None:
    """Refuse an engine that is not installed, with the command that installs it."""
    if engine == "tunix" and find_spec("tunix") is None:
        raise EngineMissing("engine 'tunix' is not installed: run `pip install google-tunix`, or ask for engine 'jax'")


def _need_rows(
    services: Services, dataset: DatasetRecord, eval_dataset: DatasetRecord, evaluate: EvalSpec | None
) -> None:
    """Refuse a run that could not begin, and one that nobody could judge once it is trained."""
    if not read_manifest(services.store, dataset).splits["train"].rows:
        raise UnusableData(
            f"{dataset.name}@{dataset.version} has no rows in its train split: build it with smaller "
            "validation and test fractions",
            field="dataset",
        )
    if evaluate and not read_manifest(services.store, eval_dataset).splits[evaluate.split].rows:
        raise UnusableData(
            f"{eval_dataset.name}@{eval_dataset.version} has no rows in its {evaluate.split} split: build it with a "
            f"larger {evaluate.split} fraction, judge on another split or dataset, or ask for no evaluation (null)",
            field="evaluate.split",
        )


def _pin_dataset(dataset: DatasetRecord) -> DatasetPin:
    assert dataset.manifest_sha256 and dataset.dataset_sha256  # noqa: S101, PT018
    return DatasetPin(dataset.name, dataset.version, dataset.manifest_sha256, dataset.dataset_sha256)


def _base_model_directory(services: Services, reference: str, *, rehearsal: bool) -> BaseModelPin | None:
    """The pin of a preset or of a directory; None for a registered model."""
    if reference in PRESET_NAMES:
        return BaseModelPin(reference, reference, None)
    if REGISTERED.fullmatch(reference):
        return None
    if "/" not in reference and not is_directory(reference):
        presets = ", ".join(PRESET_NAMES)
        raise InvalidInput(
            f"unknown base model {reference[:200]!r}: name a preset ({presets}), a registered NAME@ALIAS, or a "
            "directory",
            field="base_model",
        )
    paths = check_model_directory(services.settings.model_roots, reference)
    manifest_sha256 = None if rehearsal else store_model_directory(services.store, paths)
    return BaseModelPin(paths[0].parent.name, None, manifest_sha256)


def _pin_registered(session: Session, reference: str) -> BaseModelPin:
    name, _, which = reference.partition("@")
    try:
        version = find_version(session, name, which)
    except NotFound as error:
        raise InvalidInput(str(error), field="base_model") from None
    return BaseModelPin(f"{version.name}@{version.version}", None, version.manifest_sha256)


def _pin_baseline(session: Session, model_name: str, alias: str) -> BaselinePin | None:
    current = current_alias(session, model_name, alias)
    if current is None:
        return None
    evaluation = session.get(EvaluationRecord, current.evaluation_id) if current.evaluation_id else None
    report_sha256 = evaluation.report_sha256 if evaluation else None
    return BaselinePin(current.version, str(current.id), current.manifest_sha256, report_sha256)
