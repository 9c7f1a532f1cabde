"""How an object shows, without being read, that it is the blob whose name it has."""

import base64

from minio.datatypes import Object

from tunix_rt_common.storage.base import Blob

CHECKSUM = "x-amz-checksum-sha256"
MARK = "x-amz-meta-sha256"

Proof = dict[str, str]
"""Headers that a blob is uploaded with, and that S3 gives back."""


def proof_of(blob: Blob, *, in_parts: bool) -> Proof:
    """The blob's name, and a checksum that S3 compares with what it gets.

    For an upload in parts S3 knows no sha256 of the whole; it checks each part by itself.
    """
    if in_parts:
        return {MARK: blob.sha256}
    return {MARK: blob.sha256, CHECKSUM: base64.b64encode(bytes.fromhex(blob.sha256)).decode()}


def is_proven(found: Object, blob: Blob, proof: Proof) -> bool:
    """S3 says all of it, so the blob need not be uploaded again. What somebody wrote over has another proof or none."""
    headers = found.metadata or {}
    return found.size == blob.size_bytes and all(headers.get(name) == value for name, value in proof.items())


def is_refuted(found: Object, blob: Blob, proof: Proof) -> bool:
    """Size or proof are another's; not every server keeps checksums, so a missing one says nothing."""
    headers = found.metadata or {}
    return found.size != blob.size_bytes or any(headers.get(name, value) != value for name, value in proof.items())
