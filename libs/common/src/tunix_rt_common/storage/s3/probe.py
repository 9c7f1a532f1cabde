"""Whether a bucket does what we need, tried at start on an object of our own."""

import hashlib
import uuid
from io import BytesIO

from tunix_rt_common.errors import Unavailable
from tunix_rt_common.storage.base import Blob, Capabilities
from tunix_rt_common.storage.s3.address import S3Address
from tunix_rt_common.storage.s3.bucket import Bucket
from tunix_rt_common.storage.s3.proof import CHECKSUM, is_refuted, proof_of

CONTENT = b"Tunix RT was here"
BLOB = Blob(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
PROOF = proof_of(BLOB, in_parts=False)


def probe(bucket: Bucket, address: S3Address) -> Capabilities:
    """Write, list, read, upload in parts, remove; `Unavailable` with the remedy where one of them does not work."""
    key = address.key(f"probe/{uuid.uuid4().hex}")
    bucket.put(key, BytesIO(CONTENT), len(CONTENT), PROOF)
    try:
        checksums = _keeps_checksums(bucket, key)
        _check_reading(bucket, key)
        _check_uploads(bucket, key)
        return Capabilities(
            conditional_put=bucket.puts_conditionally(key),
            checksums=checksums,
            presigned_urls=address.public_endpoint is not None,
        )
    finally:
        bucket.remove(key)


def _keeps_checksums(bucket: Bucket, key: str) -> bool:
    found = bucket.head(key)
    if not found or is_refuted(found, BLOB, PROOF):
        raise Unavailable("S3 does not keep what was just written: use another server")
    return CHECKSUM in (found.metadata or {})


def _check_reading(bucket: Bucket, key: str) -> None:
    with bucket.open(key) as source:
        same = source.read() == CONTENT
    if not same or key not in [found.object_name for found in bucket.objects(key)]:
        raise Unavailable("S3 does not list or give back what was just written: use a server that does so at once")


def _check_uploads(bucket: Bucket, key: str) -> None:
    """Uploads in parts can be begun, listed and aborted, so that the sweeper can find what a killed process left."""
    bucket.begin_upload(key)
    begun = bucket.unfinished_uploads(key)
    for upload_id in begun:
        bucket.abort_upload(key, upload_id)
    if not begun or bucket.unfinished_uploads(key):
        raise Unavailable("S3 does not list or abort unfinished uploads: allow it in the bucket's policy")
