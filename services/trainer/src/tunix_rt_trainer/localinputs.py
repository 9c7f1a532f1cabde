"""What a run stands on where there is no platform: a spec, a file of traces, a model directory."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunix_rt_common import runbundle
from tunix_rt_common.datasetcheck import check_dataset
from tunix_rt_common.datasetfolder import MANIFEST_FILE, read_manifest, write_dataset
from tunix_rt_common.datasets import DatasetManifest, ShardEntry
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.findings import first_finding
from tunix_rt_common.reports import FileEntry, digest
from tunix_rt_common.specs import PRESET_NAMES, DatasetSpec, DistillSpec, RunSpec
from tunix_rt_common.storage.bundle import FolderManifest
from tunix_rt_trainer.inputs import ModelFolder, Models

MODEL_SUFFIXES = {".json", ".jinja", ".safetensors"}


def dataset_spec(wanted: Mapping[str, Any], dataset: Path, splits: Mapping[str, Any]) -> DatasetSpec:
    """How a file becomes a dataset: called as the spec says, or as the file is."""
    named = str(wanted.get("dataset") or dataset.name.partition(".")[0].lower()).partition("@")[0]
    try:
        return DatasetSpec.model_validate({"name": named, **splits})
    except ValidationError as error:
        raise InvalidInput(
            f"the dataset cannot be called or split like this ({first_finding(error)}): name it in the spec's dataset, "
            "and correct the fractions",
            field="dataset",
        ) from error


def fresh_dataset(source: Path, spec: DatasetSpec, folder: Path) -> DatasetManifest:
    """Write a file's traces, or copy a pulled dataset, to a folder that is emptied first; its manifest.

    Raises:
        InvalidInput: a line is no trace, or the folder does not hold what its manifest says.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return _copy_dataset(source, folder) if source.is_dir() else write_dataset(source, spec, folder)


def _copy_dataset(source: Path, target: Path) -> DatasetManifest:
    manifest = read_manifest(source)
    for name in (MANIFEST_FILE, *(shard.path for shard in manifest.shards)):
        try:
            shutil.copyfile(source / name, target / name)
        except OSError as error:
            raise InvalidInput(f"{source / name} cannot be read ({error.strerror})", field="dataset") from error

    def lines_of(shard: ShardEntry) -> list[bytes]:
        return (target / shard.path).read_bytes().splitlines(keepends=True)

    check_dataset(manifest, lines_of)
    return manifest


def run_spec(wanted: Mapping[str, Any], manifest: DatasetManifest) -> RunSpec:
    """The run, on this dataset.

    Raises:
        InvalidInput: a field is wrong, or needs a platform.
    """
    try:
        run = RunSpec.model_validate({**wanted, "dataset": manifest.name})
    except ValidationError as error:
        raise InvalidInput(
            f"the spec is not that of a run ({first_finding(error)}): correct it", field="spec"
        ) from error
    for name in ("dataset", "endpoint") if run.evaluate else ():
        if getattr(run.evaluate, name) is not None:
            raise InvalidInput(
                "without a platform a model is judged by itself, on the dataset that it was trained on: leave "
                f"evaluate.{name} out",
                field=f"evaluate.{name}",
            )
    if run.train.engine != "jax":
        raise InvalidInput(f"engine {run.train.engine!r} needs a platform: use 'jax'", field="train.engine")
    return run


def local_models(run: RunSpec) -> Models:
    """The models that the spec names: a preset or a directory, and directories of teacher and adapter.

    Raises:
        InvalidInput: there is no such directory.
    """
    spec = run.train
    adapter = spec.lora.adapter if spec.lora else None
    return Models(
        base=run.base_model if run.base_model in PRESET_NAMES else _folder(run.base_model, "base_model"),
        teacher=_folder(spec.teacher, "train.teacher") if isinstance(spec, DistillSpec) else None,
        adapter=_folder(adapter, "train.lora.adapter") if adapter is not None else None,
    )


def _folder(reference: str, field: str) -> ModelFolder:
    folder = Path(reference).expanduser()
    if not folder.is_dir():
        presets = f"a preset ({', '.join(PRESET_NAMES)}) or " if field == "base_model" else ""
        raise InvalidInput(
            f"no directory {reference[:200]!r}: name {presets}a directory; a registered model becomes one by "
            "`tunix-rt models pull`",
            field=field,
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix in MODEL_SUFFIXES and path.is_file())
    files = (
        FileEntry(path=path.name, sha256=runbundle.file_sha256(path), size_bytes=path.stat().st_size) for path in paths
    )
    return ModelFolder(folder.resolve().name, folder, digest(FolderManifest(files=tuple(files))))
