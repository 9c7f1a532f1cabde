"""Taking a model directory of this machine into the store, so that a run stands on content and not on a path."""

import json
from collections.abc import Sequence
from pathlib import Path

from tunix_rt_common.errors import InvalidInput, UnusableModel
from tunix_rt_common.reports import FileEntry
from tunix_rt_common.safetensors_header import check_safetensors
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest

FIELD = "base_model"
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def import_model_directory(store: ArtifactStore, roots: Sequence[Path], reference: str) -> str:
    """Check what can be checked without JAX, store the files; the manifest's sha256.

    Only directories under one of `roots` may be named: a server does not read any path that a client sends.
    """
    folder = Path(reference).expanduser().resolve()
    if not any(folder.is_relative_to(root.resolve()) for root in roots):
        raise InvalidInput(
            f"this server reads no model directory {reference!r}: set TUNIX_RT_MODEL_ROOTS to a JSON list of the "
            "folders it may read, or use a preset or a registered model",
            field=FIELD,
        )
    if not folder.is_dir():
        raise InvalidInput(f"no directory {reference!r}: give the path of a Hugging Face model directory", field=FIELD)
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()})
    _check(folder, paths)
    files = tuple(_store(store, folder, path) for path in paths)
    return store.put_document(FolderManifest(files=files))


def _check(folder: Path, paths: Sequence[Path]) -> None:
    config = folder / "config.json"
    if config not in paths:
        raise UnusableModel(f"{folder.name} has no config.json: give a Hugging Face model directory", field=FIELD)
    try:
        json.loads(config.read_text("utf-8"))
    except ValueError as error:
        raise UnusableModel(
            f"{folder.name}/config.json is not JSON ({error}): download it again", field=FIELD
        ) from None
    weights = [path for path in paths if path.suffix == ".safetensors"]
    if not weights:
        raise UnusableModel(f"{folder.name} has no *.safetensors: convert its weights to safetensors", field=FIELD)
    for path in weights:
        try:
            check_safetensors(path)
        except UnusableModel as error:
            raise UnusableModel(str(error), field=FIELD) from None


def _store(store: ArtifactStore, folder: Path, path: Path) -> FileEntry:
    blob = store.put_file(path)
    return FileEntry(path=path.relative_to(folder).as_posix(), sha256=blob.sha256, size_bytes=blob.size_bytes)
