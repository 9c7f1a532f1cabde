"""The artifact store in a local folder."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from tunix_rt_common.errors import NotFound, Unavailable
from tunix_rt_common.storage.base import (
    CHUNK_BYTES,
    SHA256,
    ArtifactStore,
    Blob,
    Capabilities,
    StoredBlob,
    check_sha256,
)


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
        with self._reading(sha256):
            return self._path(sha256).open("rb")

    def size_bytes(self, sha256: str) -> int:
        """The file's size."""
        with self._reading(sha256):
            return self._path(sha256).stat().st_size

    def blobs(self) -> Iterator[StoredBlob]:
        """The files in our folders that have a blob's name."""
        for path in (self._root / "blobs" / "sha256").glob("*/*"):
            if SHA256.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    state = path.stat()
                    yield StoredBlob(path.name, state.st_size, _modified_at(state))

    def delete(self, sha256: str, put_before: datetime) -> bool:
        """Remove the file, unless it is young."""
        path = self._path(sha256)
        with self._writing(), suppress(FileNotFoundError):
            if _modified_at(path.stat()) < put_before:
                path.unlink()
                return True
        return False

    def probe(self) -> Capabilities:
        """Write a file and remove it."""
        with self._aside() as aside:
            _copy(BytesIO(b"Tunix RT was here"), aside)
        return Capabilities()

    def _path(self, sha256: str) -> Path:
        return self._root / "blobs" / "sha256" / check_sha256(sha256)[:2] / sha256

    def _store(self, source: BinaryIO) -> Blob:
        with self._aside() as aside:
            blob = _copy(source, aside)
            target = self._path(blob.sha256)
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(target)
            _sync_folder(target.parent)
        return blob

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """A place for a file under way; nothing is left of it."""
        aside = self._root / "incoming" / uuid.uuid4().hex
        with self._writing():
            try:
                aside.parent.mkdir(parents=True, exist_ok=True)
                yield aside
            finally:
                with suppress(OSError):
                    aside.unlink()

    @contextmanager
    def _reading(self, sha256: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"no blob {sha256}") from None
        except OSError as error:
            raise Unavailable(
                f"the artifact folder {self._root} cannot be read ({error.strerror}): mount it"
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"the artifact folder {self._root} takes no files ({error.strerror}):"
                " free some space, and check that it may be written to"
            ) from error


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


def _modified_at(state: os.stat_result) -> datetime:
    return datetime.fromtimestamp(state.st_mtime, UTC)


def _sync_folder(folder: Path) -> None:
    """Make a rename in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
