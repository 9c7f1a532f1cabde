"""What a run stands on where there is a platform: what its pins name, from the store to this machine's disk."""

from pathlib import Path
from typing import Any

from tunix_rt_common.datasets import DatasetManifest, DatasetRow, Split, read_rows
from tunix_rt_common.specs import TrainSpec
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder
from tunix_rt_trainer.inputs import Description, ModelFolder, Models, Weights, describe_inputs, load_weights

WEIGHTS_SUFFIX = ".safetensors"
Pins = dict[str, Any]


def describe_pinned(store: ArtifactStore, spec: TrainSpec, pins: Pins, scratch: Path) -> Description:
    """Fetch, verify and describe the pinned inputs, leaving out the weights. Raises what `describe_inputs` does."""
    models = _models(pins, scratch)
    _fetch(store, models, weights=False)
    manifest = store.get_document(DatasetManifest, pins["dataset"]["manifest_sha256"])
    return describe_inputs(
        spec,
        models,
        dataset_sha256=manifest.dataset_sha256,
        train_rows=_rows(store, manifest, "train"),
        validation_rows=_rows(store, manifest, "validation"),
    )


def load_pinned_weights(store: ArtifactStore, described: Description, pins: Pins, scratch: Path) -> Weights:
    """Fetch the weights beside what describes them, and read them. Raises what `load_weights` does."""
    models = _models(pins, scratch)
    _fetch(store, models, weights=True)
    return load_weights(described, models)


def _models(pins: Pins, scratch: Path) -> Models:
    base, teacher, adapter = pins["base_model"], pins.get("teacher"), pins.get("adapter")
    return Models(
        base=base["preset"] or _folder(base, scratch / "base-model"),
        teacher=_folder(teacher, scratch / "teacher") if teacher else None,
        adapter=_folder(adapter, scratch / "adapter") if adapter else None,
    )


def _folder(pin: dict[str, Any], folder: Path) -> ModelFolder:
    return ModelFolder(pin["name"], folder, pin["manifest_sha256"])


def _fetch(store: ArtifactStore, models: Models, *, weights: bool) -> None:
    """Fill the folders of the models: with their weights, or with all else."""
    for model in (models.base, models.teacher, models.adapter):
        if isinstance(model, ModelFolder):
            files = store.get_document(FolderManifest, model.sha256).files
            wanted = tuple(entry for entry in files if entry.path.endswith(WEIGHTS_SUFFIX) == weights)
            fetch_folder(store, FolderManifest(files=wanted), model.folder)


def _rows(store: ArtifactStore, manifest: DatasetManifest, split: Split) -> list[DatasetRow]:
    shards = [shard for shard in manifest.shards if shard.split == split]
    return [row for shard in shards for row in read_rows(store.read(shard.sha256).splitlines())]
