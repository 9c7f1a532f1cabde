"""Pinning the models that a run names: the base, the teacher, the adapter to go on from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.orm import Session

from tunix_rt_api.deps import Services
from tunix_rt_api.models.service import find_version
from tunix_rt_api.runs.fits import ADAPTER, BASE, TEACHER, check_fit
from tunix_rt_api.runs.modeldirs import (
    ADAPTER_LAYOUT,
    MODEL_LAYOUT,
    check_directory,
    is_directory,
    store_directory,
    without_weights,
)
from tunix_rt_api.runs.modelfiles import ModelFiles, local_files, stored_files
from tunix_rt_common.db.models import ModelVersionRecord
from tunix_rt_common.errors import InvalidInput, NotFound
from tunix_rt_common.peft import ADAPTER_FOLDER
from tunix_rt_common.reports import FileEntry
from tunix_rt_common.specs import PRESET_NAMES, DistillSpec, RunSpec
from tunix_rt_common.storage.bundle import FolderManifest

Kept = Literal["all", "description", "nothing"]
"""What is stored of a directory: for a plan the files that describe it, for a rehearsal none."""
REGISTERED = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}@[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True)
class ModelPin:
    """A model or an adapter: a preset to be initialised from the seed, or a stored directory."""

    name: str
    preset: str | None
    manifest_sha256: str | None


@dataclass(frozen=True)
class NamedModels:
    """What is pinned so far, and the files of what has some, by the field that names it."""

    pins: Mapping[str, ModelPin]
    files: Mapping[str, ModelFiles]


def take_directories(services: Services, spec: RunSpec, kept: Kept) -> NamedModels:
    """The pins of a preset and of directories, stored once they are known to go together; no database is asked."""
    pins, folders = {}, {}
    for field, reference in _references(spec).items():
        if field == BASE and reference in PRESET_NAMES:
            pins[field] = ModelPin(reference, reference, None)
        elif not REGISTERED.fullmatch(reference):
            folders[field] = _checked_directory(services, reference, field)
    files = {field: local_files(paths[0].parent.name, paths) for field, paths in folders.items()}
    check_fit(spec.train, files)
    for field, paths in folders.items():
        stored = without_weights(paths) if kept == "description" else paths
        manifest_sha256 = None if kept == "nothing" else store_directory(services.store, stored)
        pins[field] = ModelPin(files[field].name, None, manifest_sha256)
    return NamedModels(pins, files)


def pin_models(
    session: Session, services: Services, spec: RunSpec, taken: NamedModels, kept: Kept
) -> dict[str, ModelPin]:
    """What `take_directories` took, and registered models: all pins by field."""
    pins, files = dict(taken.pins), dict(taken.files)
    for field, reference in _references(spec).items():
        if field in pins:
            continue
        version = _registered(session, reference, field)
        name, manifest_sha256 = f"{version.name}@{version.version}", version.manifest_sha256
        manifest = services.store.get_document(FolderManifest, manifest_sha256)
        if field == ADAPTER:
            manifest = _adapter_of(name, manifest)
            manifest_sha256 = "" if kept == "nothing" else services.store.put_document(manifest)
        files[field] = stored_files(name, services.store, manifest)
        pins[field] = ModelPin(name, None, manifest_sha256 or None)
    if files.keys() != taken.files.keys():
        check_fit(spec.train, files)
    return pins


def _references(spec: RunSpec) -> dict[str, str]:
    named = {BASE: spec.base_model}
    if isinstance(spec.train, DistillSpec):
        named[TEACHER] = spec.train.teacher
    if spec.train.lora and spec.train.lora.adapter is not None:
        named[ADAPTER] = spec.train.lora.adapter
    return named


def _checked_directory(services: Services, reference: str, field: str) -> list[Path]:
    if "/" not in reference and not is_directory(reference):
        presets = f"a preset ({', '.join(PRESET_NAMES)}), " if field == BASE else ""
        what = {BASE: "base model", TEACHER: "teacher", ADAPTER: "adapter"}[field]
        raise InvalidInput(
            f"unknown {what} {reference[:200]!r}: name {presets}a registered NAME@ALIAS, or a directory", field=field
        )
    layout = ADAPTER_LAYOUT if field == ADAPTER else MODEL_LAYOUT
    return check_directory(services.settings.model_roots, reference, layout, field)


def _registered(session: Session, reference: str, field: str) -> ModelVersionRecord:
    model, _, which = reference.partition("@")
    try:
        return find_version(session, model, which)
    except NotFound as error:
        raise InvalidInput(str(error), field=field) from None


def _adapter_of(name: str, manifest: FolderManifest) -> FolderManifest:
    """The adapter alone, of a version that it was merged into."""
    prefix = f"{ADAPTER_FOLDER}/"
    files = tuple(
        FileEntry(path=entry.path.removeprefix(prefix), sha256=entry.sha256, size_bytes=entry.size_bytes)
        for entry in manifest.files
        if entry.path.startswith(prefix)
    )
    if not files:
        raise InvalidInput(
            f"{name} has no adapter, since all its weights were trained: name a version that lora trained, or go on "
            "from it as base_model",
            field=ADAPTER,
        )
    return FolderManifest(files=files)
