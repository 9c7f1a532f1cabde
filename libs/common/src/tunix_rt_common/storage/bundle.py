"""Folders in the store: every file a blob, one manifest that lists them.

The manifest holds nothing but the files, so equal folders have equal digests: what a model directory is known by.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.reports import FileEntry
from tunix_rt_common.storage.base import ArtifactStore


class FolderManifest(BaseModel):
    """The files of a folder, sorted by path."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: Literal["1"] = "1"
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files)


def put_folder(store: ArtifactStore, folder: Path) -> FolderManifest:
    """Store every file under a folder; links are refused, since they may point anywhere."""
    paths = sorted(folder.rglob("*"))
    if linked := next((path for path in paths if path.is_symlink()), None):
        raise InvalidInput(f"{linked.relative_to(folder)} is a symbolic link: replace it with the file it points to")
    return FolderManifest(files=tuple(_put(store, folder, path) for path in paths if path.is_file()))


def fetch_folder(store: ArtifactStore, manifest: FolderManifest, folder: Path) -> None:
    """Write the listed files into a folder, each verified against its hash."""
    for entry in manifest.files:
        store.fetch(entry.sha256, folder / entry.path)


def _put(store: ArtifactStore, folder: Path, path: Path) -> FileEntry:
    blob = store.put_file(path)
    return FileEntry(path=path.relative_to(folder).as_posix(), sha256=blob.sha256, size_bytes=blob.size_bytes)
