"""The files of a model or an adapter that a run names, to be looked into without JAX, wherever they lie."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tunix_rt_common.safetensors_header import Tensors, read_tensors
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest


@dataclass(frozen=True)
class ModelFiles:
    """Files by name, with their sizes in bytes; what has been checked to be JSON or safetensors is taken to be it."""

    name: str
    sizes: Mapping[str, int]
    open: Callable[[str], AbstractContextManager[BinaryIO]]

    def content(self, name: str) -> bytes:
        """All bytes of a small file."""
        with self.open(name) as source:
            return source.read()

    def document(self, name: str) -> dict[str, Any]:
        """A file that holds a JSON object."""
        document: dict[str, Any] = json.loads(self.content(name))
        return document

    def tensors(self) -> Tensors:
        """What the headers of the weight files in the folder itself say."""
        found: Tensors = {}
        for name, size in self.sizes.items():
            if name.endswith(".safetensors") and "/" not in name:
                with self.open(name) as source:
                    found |= read_tensors(source, size, name)
        return found


def local_files(name: str, paths: Sequence[Path]) -> ModelFiles:
    """Files of this machine."""
    by_name = {path.name: path for path in paths}
    return ModelFiles(name, {path.name: path.stat().st_size for path in paths}, lambda file: by_name[file].open("rb"))


def stored_files(name: str, store: ArtifactStore, manifest: FolderManifest) -> ModelFiles:
    """Files of a stored folder."""
    digests = {entry.path: entry.sha256 for entry in manifest.files}
    return ModelFiles(
        name, {entry.path: entry.size_bytes for entry in manifest.files}, lambda file: store.open(digests[file])
    )
