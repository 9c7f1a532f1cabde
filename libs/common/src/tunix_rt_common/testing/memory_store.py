"""An artifact store in memory."""

import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from tunix_rt_common.errors import NotFound
from tunix_rt_common.storage.base import ArtifactStore, Blob, Capabilities, StoredBlob, check_sha256


class MemoryStore(ArtifactStore):
    """Keeps blobs in a dictionary; passes the same contract suite as the real adapters.

    A test that wants an old blob writes its age into `modified_at`.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.modified_at: dict[str, datetime] = {}
        self._changing = Lock()

    def put_file(self, path: Path) -> Blob:
        """Read the whole file."""
        return self.put_bytes(path.read_bytes())

    def put_bytes(self, content: bytes) -> Blob:
        """Keep the bytes."""
        sha256 = hashlib.sha256(content).hexdigest()
        with self._changing:
            self.contents[sha256] = content
            self.modified_at[sha256] = datetime.now(UTC)
        return Blob(sha256, len(content))

    def open(self, sha256: str) -> AbstractContextManager[BinaryIO]:
        """The bytes as a stream."""
        return BytesIO(self._content(sha256))

    def size_bytes(self, sha256: str) -> int:
        """How many bytes there are."""
        return len(self._content(sha256))

    def blobs(self) -> Iterator[StoredBlob]:
        """What is kept now."""
        with self._changing:
            found = [
                StoredBlob(sha256, len(content), self.modified_at[sha256]) for sha256, content in self.contents.items()
            ]
        yield from found

    def delete(self, sha256: str, put_before: datetime) -> bool:
        """Forget the bytes, unless they are young."""
        with self._changing:
            if check_sha256(sha256) not in self.contents or self.modified_at[sha256] >= put_before:
                return False
            del self.contents[sha256], self.modified_at[sha256]
            return True

    def probe(self) -> Capabilities:
        """Nothing is ever in the way."""
        return Capabilities()

    def _content(self, sha256: str) -> bytes:
        try:
            return self.contents[check_sha256(sha256)]
        except KeyError:
            raise NotFound(f"no blob {sha256}") from None
