"""An artifact store in memory."""

import hashlib
from contextlib import AbstractContextManager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from tunix_rt_common.errors import NotFound
from tunix_rt_common.storage.base import ArtifactStore, Blob, check_sha256


class MemoryStore(ArtifactStore):
    """Keeps blobs in a dictionary; passes the same contract suite as the real adapters."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def put_file(self, path: Path) -> Blob:
        """Read the whole file."""
        return self.put_bytes(path.read_bytes())

    def put_bytes(self, content: bytes) -> Blob:
        """Keep the bytes."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blobs[sha256] = content
        return Blob(sha256, len(content))

    def open(self, sha256: str) -> AbstractContextManager[BinaryIO]:
        """The bytes as a stream."""
        try:
            return BytesIO(self.blobs[check_sha256(sha256)])
        except KeyError:
            raise NotFound(f"no blob {sha256}") from None
