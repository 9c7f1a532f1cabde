"""The port to the artifact store, and what every adapter shares: names are hashes, reads are verified."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from uuid import UUID

from pydantic import BaseModel

from tunix_rt_common.errors import InvalidInput, NotFound, Unavailable
from tunix_rt_common.ids import new_id
from tunix_rt_common.traces import canonical_json

CHUNK_BYTES = 1 << 18
LONGEST_LINK_S = 300
SHA256 = re.compile(r"[0-9a-f]{64}")
Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True)
class Blob:
    """A stored blob's name and size."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class StoredBlob(Blob):
    """A blob as the store lists it; `modified_at` is when it was last put, by the store's clock."""

    modified_at: datetime


@dataclass(frozen=True)
class Capabilities:
    """What a store can do beyond what every store must. For logs and health: nothing's correctness rests on it."""

    conditional_put: bool = False
    checksums: bool = False
    presigned_urls: bool = False


class UploadLedger(Protocol):
    """Where uploads in parts are written down before they begin: what a killed process leaves can then be found."""

    def begin(self, key: str) -> UUID:
        """An upload of this key is about to begin."""

    def end(self, token: UUID) -> None:
        """It is complete. One that failed is not ended: whoever sweeps makes sure that nothing of it is left."""


class UnrecordedUploads:
    """A ledger that keeps nothing, for stores without multipart uploads and for tools that live for one upload."""

    def begin(self, key: str) -> UUID:  # noqa: ARG002
        """A token that means nothing."""
        return new_id()

    def end(self, token: UUID) -> None:
        """Nothing to forget."""


class ArtifactStore(ABC):
    """Blobs by the sha256 of their content. A blob is there whole or not at all, and never changes.

    Every method raises `Unavailable`, with the remedy, when the store is full or away.
    """

    @abstractmethod
    def put_file(self, path: Path) -> Blob:
        """Store a file; the same content twice is one blob, young again. `Conflict` when the file changes meanwhile."""

    @abstractmethod
    def put_bytes(self, content: bytes) -> Blob:
        """Store bytes that fit in memory."""

    @abstractmethod
    def open(self, sha256: str) -> AbstractContextManager[BinaryIO]:
        """The blob's bytes as a stream, unverified; `NotFound` when there is no such blob."""

    @abstractmethod
    def size_bytes(self, sha256: str) -> int:
        """How large the blob is; `NotFound` when there is no such blob."""

    @abstractmethod
    def blobs(self) -> Iterator[StoredBlob]:
        """Every blob, in no order; one put or deleted meanwhile may be among them or not."""

    @abstractmethod
    def delete(self, sha256: str, put_before: datetime) -> bool:
        """Remove a blob, unless it was put again since a moment; whether there was one to remove."""

    @abstractmethod
    def probe(self) -> Capabilities:
        """Prove at start that blobs can be written, listed and removed here; `Unavailable` says what is in the way."""

    def presigned_url(self, sha256: str, *, filename: str, expires_s: int = LONGEST_LINK_S) -> str | None:
        """A link by which a browser downloads the blob under a file name; None where the store hands out none.

        Whoever has the link has the blob, so it expires after at most `LONGEST_LINK_S` and belongs in no log.
        """
        check_sha256(sha256)
        check_link(filename, expires_s)
        return None

    def unfinished_uploads(self, key: str) -> Sequence[str]:  # noqa: ARG002
        """The ids of a key's uploads in parts that are neither complete nor aborted; a key as `UploadLedger` has it."""
        return ()

    def abort_upload(self, key: str, upload_id: str) -> None:  # noqa: B027
        """Free what an unfinished upload occupies; without such an upload, nothing happens."""

    def read(self, sha256: str) -> bytes:
        """A small blob, verified."""
        with self.open(sha256) as source:
            content = source.read()
        check_content(sha256, hashlib.sha256(content).hexdigest())
        return content

    def stream(self, sha256: str) -> Iterator[bytes]:
        """The blob in chunks; `Unavailable` at its end when the bytes are not what the name says.

        A chunk is hashed by another thread while the next one arrives; no more than two are held.
        """
        digest = hashlib.sha256()
        with self.open(sha256) as source, ThreadPoolExecutor(1) as hasher:
            hashing = hasher.submit(digest.update, b"")
            while chunk := source.read(CHUNK_BYTES):
                hashing.result()
                hashing = hasher.submit(digest.update, chunk)
                yield chunk
            hashing.result()
        check_content(sha256, digest.hexdigest())

    def fetch(self, sha256: str, target: Path) -> None:
        """Write a blob to a file, verified; on damage no file is left."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        try:
            with partial.open("wb", buffering=0) as sink:
                for chunk in self.stream(sha256):
                    _write_all(sink, chunk)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def put_document(self, document: BaseModel) -> str:
        """Store a document as canonical JSON; its sha256."""
        return self.put_bytes(canonical_json(document.model_dump(mode="json"))).sha256

    def get_document(self, kind: type[Document], sha256: str) -> Document:
        """A stored document, verified and validated."""
        return kind.model_validate_json(self.read(sha256))


def _write_all(sink: FileIO, chunk: bytes) -> None:
    """Write past a buffer, which would only copy; a disk that fills up takes less than it is given, then raises."""
    left = memoryview(chunk)
    while left:
        left = left[sink.write(left) :]


def check_sha256(sha256: str) -> str:
    """The digest itself when it is one; `NotFound` otherwise, since nothing else names a blob."""
    if not SHA256.fullmatch(sha256):
        raise NotFound(f"no blob {sha256[:80]!r}: a blob is named by 64 lower-case hexadecimal digits")
    return sha256


def check_content(sha256: str, found: str) -> None:
    """`Unavailable` when what was read hashes to something else than the blob's name."""
    if found != sha256:
        raise Unavailable(f"blob {sha256} is damaged in the store: restore it from a backup")


def check_link(filename: str, expires_s: int) -> None:
    """`InvalidInput` for a link without a file name, or one that lives too long."""
    if not filename:
        raise InvalidInput("a download needs a file name", field="filename")
    if not 1 <= expires_s <= LONGEST_LINK_S:
        raise InvalidInput(f"a link lives for 1 to {LONGEST_LINK_S} seconds, not {expires_s}", field="expires_s")


def open_store(url: str, uploads: UploadLedger | None = None) -> ArtifactStore:
    """The store behind a URL, by its scheme; uploads in parts go into the ledger. Nothing is contacted yet: `probe`."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "file":
        from tunix_rt_common.storage.local import LocalStore

        return LocalStore(Path(rest))
    if separator and scheme == "s3":
        from tunix_rt_common.storage.s3 import S3Store
        from tunix_rt_common.storage.s3.address import parse_address

        return S3Store(parse_address(url), uploads or UnrecordedUploads())
    raise InvalidInput(
        f"no store adapter for {scheme[:80]!r}: use file:///FOLDER or s3://BUCKET/PREFIX?endpoint=http://HOST:PORT",
        field="TUNIX_RT_ARTIFACTS_URL",
    )
