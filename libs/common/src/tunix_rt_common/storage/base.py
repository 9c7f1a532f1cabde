"""The port to the artifact store, and what every adapter shares: names are hashes, reads are verified."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel

from tunix_rt_common.errors import InvalidInput, NotFound, Unavailable
from tunix_rt_common.traces import canonical_json

CHUNK_BYTES = 1 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True)
class Blob:
    """A stored blob's name and size."""

    sha256: str
    size_bytes: int


class ArtifactStore(ABC):
    """Blobs by the sha256 of their content. A blob is there whole or not at all, and never changes."""

    @abstractmethod
    def put_file(self, path: Path) -> Blob:
        """Store a file; storing the same content twice is one blob. `Unavailable` when the store is full or away."""

    @abstractmethod
    def open(self, sha256: str) -> AbstractContextManager[BinaryIO]:
        """The blob's bytes as a stream, unverified; `NotFound` when there is no such blob."""

    @abstractmethod
    def put_bytes(self, content: bytes) -> Blob:
        """Store bytes that fit in memory."""

    def read(self, sha256: str) -> bytes:
        """A small blob, verified."""
        return b"".join(self.stream(sha256))

    def stream(self, sha256: str) -> Iterator[bytes]:
        """The blob in chunks; `Unavailable` at its end when the bytes are not what the name says."""
        digest = hashlib.sha256()
        with self.open(sha256) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != sha256:
            raise Unavailable(f"blob {sha256} is damaged in the store: restore it from a backup")

    def fetch(self, sha256: str, target: Path) -> None:
        """Write a blob to a file, verified; on damage no file is left."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb") as sink:
                sink.writelines(self.stream(sha256))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def put_document(self, document: BaseModel) -> str:
        """Store a document as canonical JSON; its sha256."""
        return self.put_bytes(canonical_json(document.model_dump(mode="json"))).sha256

    def get_document(self, kind: type[Document], sha256: str) -> Document:
        """A stored document, verified and validated."""
        return kind.model_validate_json(self.read(sha256))


def check_sha256(sha256: str) -> str:
    """The digest itself when it is one; `NotFound` otherwise, since nothing else names a blob."""
    if not SHA256.fullmatch(sha256):
        raise NotFound(f"no blob {sha256[:80]!r}: a blob is named by 64 lower-case hexadecimal digits")
    return sha256


def open_store(url: str) -> ArtifactStore:
    """The store behind a URL, by its scheme."""
    if url.startswith("file://"):
        from tunix_rt_common.storage.local import LocalStore

        return LocalStore(Path(url.removeprefix("file://")))
    raise InvalidInput(f"no store adapter for {url!r}: use file:///FOLDER", field="TUNIX_RT_ARTIFACTS_URL")
