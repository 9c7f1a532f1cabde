"""Pinning: every moving reference of a run is resolved when it is accepted, and nothing downstream asks back."""

import re
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunix_rt_api.datasets.service import built_dataset
from tunix_rt_api.deps import Services
from tunix_rt_api.runs.modeldirs import import_model_directory
from tunix_rt_common.db.models import BaseModelRecord, DatasetRecord, EvaluationRecord, ModelVersionRecord
from tunix_rt_common.errors import EngineMissing, InvalidInput
from tunix_rt_common.promotion import current_alias
from tunix_rt_common.specs import PRESET_NAMES, RunSpec
from tunix_rt_common.version import CODE_VERSION

REGISTERED = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]{0,63})@(?P<which>[a-z0-9][a-z0-9._-]{0,63})")


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


def pin(session: Session, services: Services, spec: RunSpec) -> tuple[DatasetRecord, dict[str, Any]]:
    """The run's dataset row and its pins, as JSON; `InvalidInput` names the field that points to nothing."""
    check_engine(spec.train.engine)
    dataset = built_dataset(session, spec.dataset, "dataset")
    eval_reference = spec.evaluate.dataset if spec.evaluate else None
    eval_dataset = built_dataset(session, eval_reference, "evaluate.dataset") if eval_reference else dataset
    model_name = spec.model_name or dataset.name
    pins = Pins(
        dataset=_pin_dataset(dataset),
        eval_dataset=_pin_dataset(eval_dataset),
        base_model=_pin_base_model(session, services, spec.base_model),
        baseline=_pin_baseline(session, model_name, spec.alias),
        model_name=model_name,
    )
    return dataset, asdict(pins)


def check_engine(engine: str) -> None:
    """Refuse an engine that is not installed, with the command that installs it."""
    if engine == "tunix" and find_spec("tunix") is None:
        raise EngineMissing("engine 'tunix' is not installed: run `pip install google-tunix`, or ask for engine 'jax'")


def _pin_dataset(dataset: DatasetRecord) -> DatasetPin:
    assert dataset.manifest_sha256 and dataset.dataset_sha256  # noqa: S101, PT018
    return DatasetPin(dataset.name, dataset.version, dataset.manifest_sha256, dataset.dataset_sha256)


def _pin_base_model(session: Session, services: Services, reference: str) -> BaseModelPin:
    if reference in PRESET_NAMES:
        return BaseModelPin(reference, reference, None)
    if match := REGISTERED.fullmatch(reference):
        version = _registered(session, match["name"], match["which"])
        return BaseModelPin(f"{version.name}@{version.version}", None, version.manifest_sha256)
    if "/" not in reference and not Path(reference).is_dir():
        presets = ", ".join(PRESET_NAMES)
        raise InvalidInput(
            f"unknown base model {reference!r}: name a preset ({presets}), a registered NAME@ALIAS, or a directory",
            field="base_model",
        )
    manifest_sha256 = import_model_directory(services.store, services.settings.model_roots, reference)
    session.merge(BaseModelRecord(manifest_sha256=manifest_sha256, name=Path(reference).name))
    return BaseModelPin(Path(reference).name, None, manifest_sha256)


def _registered(session: Session, name: str, which: str) -> ModelVersionRecord:
    if which.isdecimal():
        wanted = select(ModelVersionRecord).where(ModelVersionRecord.name == name)
        found = session.scalar(wanted.where(ModelVersionRecord.version == int(which[:9])))
    else:
        found = current_alias(session, name, which)
    if found is None:
        raise InvalidInput(f"no registered model {name}@{which}: GET /api/v1/models lists them", field="base_model")
    return found


def _pin_baseline(session: Session, model_name: str, alias: str) -> BaselinePin | None:
    current = current_alias(session, model_name, alias)
    if current is None:
        return None
    evaluation = session.get(EvaluationRecord, current.evaluation_id) if current.evaluation_id else None
    report_sha256 = evaluation.report_sha256 if evaluation else None
    return BaselinePin(current.version, str(current.id), current.manifest_sha256, report_sha256)
