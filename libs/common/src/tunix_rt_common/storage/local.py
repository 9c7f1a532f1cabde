"""The artifact store in a local folder."""

import hashlib
import os
import uuid
from contextlib import AbstractContextManager, suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from tunix_rt_common.errors import NotFound, Unavailable
from tunix_rt_common.storage.base import CHUNK_BYTES, ArtifactStore, Blob, check_sha256


class LocalStore(ArtifactStore):
    """Files named by their hash, written aside, synced, then renamed: a crash leaves no half blob under a name."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put_file(self, path: Path) -> Blob:
        """Copy the file while hashing it, so that what is named is what was stored."""
        with path.open("rb") as source:
            return self._store(source)

    def put_bytes(self, content: bytes) -> Blob:
        """Store bytes."""
        return self._store(BytesIO(content))

    def open(self, sha256: str) -> AbstractContextManager[BinaryIO]:
        """The file behind a digest."""
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise NotFound(f"no blob {sha256}") from None

    def _path(self, sha256: str) -> Path:
        return self._root / "blobs" / "sha256" / check_sha256(sha256)[:2] / sha256

    def _store(self, source: BinaryIO) -> Blob:
        aside = self._root / "incoming" / uuid.uuid4().hex
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            blob = _copy(source, aside)
            target = self._path(blob.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(target)
            _sync_folder(target.parent)
        except OSError as error:
            raise Unavailable(
                f"the artifact folder {self._root} takes no files ({error.strerror}): free some space"
            ) from error
        finally:
            with suppress(OSError):
                aside.unlink()
        return blob


def _copy(source: BinaryIO, target: Path) -> Blob:
    digest, size_bytes = hashlib.sha256(), 0
    with target.open("wb") as sink:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            size_bytes += len(chunk)
            sink.write(chunk)
        sink.flush()
        os.fsync(sink.fileno())
    return Blob(digest.hexdigest(), size_bytes)


def _sync_folder(folder: Path) -> None:
    """Make a rename in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
