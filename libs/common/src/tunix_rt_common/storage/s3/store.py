"""The artifact store over S3: what is uploaded, when it is trusted, and under which name."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from minio.datatypes import Object

from tunix_rt_common.errors import NotFound, Unavailable
from tunix_rt_common.storage.base import (
    LONGEST_LINK_S,
    SHA256,
    ArtifactStore,
    Blob,
    Capabilities,
    StoredBlob,
    UploadLedger,
    check_link,
    check_sha256,
)
from tunix_rt_common.storage.s3.address import S3Address
from tunix_rt_common.storage.s3.bucket import Bucket, part_bytes
from tunix_rt_common.storage.s3.probe import probe
from tunix_rt_common.storage.s3.proof import is_proven, is_refuted, proof_of
from tunix_rt_common.storage.s3.steadyfile import SteadyFile

FOLDER = "blobs/sha256/"
REUSE_WITHIN = timedelta(hours=24)
"""A blob this young is not uploaded again. An older one is: the garbage collector spares only what is young."""


class S3Store(ArtifactStore):
    """Objects named by their hash, so that whoever writes one late writes the same bytes once more.

    One that somebody else wrote over is found out by its metadata, and uploaded again.
    Going up, four parts are in memory; coming down, two chunks.
    """

    def __init__(self, address: S3Address, uploads: UploadLedger) -> None:
        self._address = address
        self._bucket = Bucket(address)
        self._uploads = uploads

    def put_file(self, path: Path) -> Blob:
        """Hash the file, then upload it unless it is there; what fits into one part is read once."""
        with SteadyFile(path) as source:
            if source.size_bytes <= part_bytes(source.size_bytes):
                return self.put_bytes(source.readall())
            blob = Blob(hashlib.file_digest(source, "sha256").hexdigest(), source.size_bytes)
            source.seek(0)
            self._put(blob, source)
        return blob

    def put_bytes(self, content: bytes) -> Blob:
        """Hash and upload bytes."""
        blob = Blob(hashlib.sha256(content).hexdigest(), len(content))
        self._put(blob, BytesIO(content))
        return blob

    def open(self, sha256: str) -> AbstractContextManager[BinaryIO]:
        """The object behind a digest; a download that breaks off is taken up where it broke."""
        return self._bucket.open(self._key(sha256))

    def size_bytes(self, sha256: str) -> int:
        """What S3 says of the object."""
        found = self._bucket.head(self._key(sha256))
        if found is None or found.size is None:
            raise NotFound(f"no blob {sha256}")
        return found.size

    def blobs(self) -> Iterator[StoredBlob]:
        """The listing of our prefix; objects that are not ours by name are left out."""
        for found in self._bucket.objects(self._address.key(FOLDER)):
            name = (found.object_name or "").rpartition("/")[2]
            if SHA256.fullmatch(name) and found.last_modified:
                yield StoredBlob(name, found.size or 0, found.last_modified)

    def delete(self, sha256: str, put_before: datetime) -> bool:
        """Remove the object, unless it is young: listed once more, since S3 deletes by no condition on age."""
        key = self._key(sha256)
        for found in self._bucket.objects(key):
            if found.last_modified and found.last_modified < put_before:
                self._bucket.remove(key)
                return True
        return False

    def presigned_url(self, sha256: str, *, filename: str, expires_s: int = LONGEST_LINK_S) -> str | None:
        """A link to `public_endpoint=`, signed without contacting S3: it does not promise that the blob exists."""
        check_link(filename, expires_s)
        answer = {
            "response-content-disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}",
            "response-content-type": "application/octet-stream",
        }
        return self._bucket.link(self._key(sha256), expires_s, answer)

    def unfinished_uploads(self, key: str) -> Sequence[str]:
        """What killed processes have left, and what others are uploading now."""
        return self._bucket.unfinished_uploads(key)

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Free the parts; whoever still sends some gets `Unavailable`."""
        self._bucket.abort_upload(key, upload_id)

    def probe(self) -> Capabilities:
        """Try everything that we need on an object of our own."""
        return probe(self._bucket, self._address)

    def _key(self, sha256: str) -> str:
        return self._address.key(f"{FOLDER}{check_sha256(sha256)[:2]}/{sha256}")

    def _put(self, blob: Blob, source: BinaryIO) -> None:
        key, in_parts = self._key(blob.sha256), blob.size_bytes > part_bytes(blob.size_bytes)
        proof, found = proof_of(blob, in_parts=in_parts), self._bucket.head(key)
        if found and is_proven(found, blob, proof) and _is_young(found):
            return
        with self._recorded(key) if in_parts else nullcontext():
            self._bucket.put(key, source, blob.size_bytes, proof)
        stored = self._bucket.head(key)
        if not stored or is_refuted(stored, blob, proof):
            raise Unavailable(f"S3 did not keep blob {blob.sha256} as it was sent: try again, then check the server")

    @contextmanager
    def _recorded(self, key: str) -> Iterator[None]:
        """In the ledger, and out of it again only when all went well."""
        token = self._uploads.begin(key)
        yield
        self._uploads.end(token)


def _is_young(found: Object) -> bool:
    return found.last_modified is not None and datetime.now(UTC) - found.last_modified < REUSE_WITHIN
