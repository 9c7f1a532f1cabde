"""The few S3 calls that we make, in one bucket; they raise `NotFound` or `Unavailable` and nothing else of S3's."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from io import BufferedReader
from types import MappingProxyType
from typing import BinaryIO

from minio.datatypes import ListMultipartUploadsResult, Object
from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from tunix_rt_common.storage.base import CHUNK_BYTES
from tunix_rt_common.storage.s3.address import S3Address
from tunix_rt_common.storage.s3.client import open_client, open_signer
from tunix_rt_common.storage.s3.download import Download
from tunix_rt_common.storage.s3.errors import KEY_GONE, UPLOAD_GONE, forgiven, translated

SMALLEST_PART_BYTES = 16 << 20
MOST_PARTS = 10_000
EMPTY: Mapping[str, str] = MappingProxyType({})


class Bucket:
    """A bucket by its address. Thread-safe, but not for use across a fork."""

    def __init__(self, address: S3Address) -> None:
        self._address = address
        self._name = address.bucket
        self._client = open_client(address)
        self._signer = open_signer(address)

    def head(self, key: str) -> Object | None:
        """Size, age and metadata of an object, with its checksum where the server keeps one; None without object."""
        with translated(self._address):
            try:
                return self._client.stat_object(self._name, key, extra_headers={"x-amz-checksum-mode": "ENABLED"})
            except S3Error as error:
                if error.code != KEY_GONE:
                    raise
                return None

    def put(self, key: str, source: BinaryIO, size_bytes: int, headers: Mapping[str, str]) -> None:
        """Upload what a stream holds; in parts, three at a time, when it is more than one part.

        An upload that S3 no longer knows was completed by a try whose answer got lost, or aborted: look which.
        """
        with translated(self._address), forgiven(UPLOAD_GONE):
            self._client.put_object(
                self._name, key, source, size_bytes, metadata=dict(headers), part_size=part_bytes(size_bytes)
            )

    def open(self, key: str) -> BufferedReader:
        """An object's bytes, with the connection that they come through."""
        with translated(self._address):
            response = self._get(key, 0)
        download = Download(response, lambda offset: self._get(key, offset), lambda: translated(self._address))
        return BufferedReader(download, CHUNK_BYTES)

    def objects(self, prefix: str) -> Iterator[Object]:
        """The objects under a prefix, page by page."""
        with translated(self._address):
            yield from self._client.list_objects(self._name, prefix, recursive=True)

    def remove(self, key: str) -> None:
        """Remove an object, if it is there; a bucket with versions keeps it until its own rules remove it."""
        with translated(self._address), forgiven(KEY_GONE):
            self._client.remove_object(self._name, key)

    def link(self, key: str, expires_s: int, answer: Mapping[str, str]) -> str | None:
        """A link to an object for browsers, signed here; `answer` holds headers that S3 is to answer with."""
        if self._signer is None:
            return None
        with translated(self._address):
            return self._signer.presigned_get_object(
                self._name, key, timedelta(seconds=expires_s), response_headers=dict(answer)
            )

    def begin_upload(self, key: str) -> None:
        """Begin an upload in parts that is never completed."""
        with translated(self._address):
            self._call("POST", key, query={"uploads": ""})

    def unfinished_uploads(self, key: str) -> Sequence[str]:
        """The ids of a key's uploads in parts; asked for by the whole key, since MinIO lists none by a part of it."""
        with translated(self._address):
            answer = ListMultipartUploadsResult(self._call("GET", query={"uploads": "", "prefix": key}))
        return [found.upload_id for found in answer.uploads if found.object_name == key and found.upload_id]

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Free the parts of an upload, if it is there."""
        with translated(self._address), forgiven(UPLOAD_GONE):
            self._call("DELETE", key, query={"uploadId": upload_id})

    def puts_conditionally(self, key: str) -> bool:
        """Whether the server heeds a condition: here, not to write over an object that is there."""
        with translated(self._address):
            try:
                self._call("PUT", key, headers={"If-None-Match": "*"})
            except S3Error as error:
                if error.code not in {"PreconditionFailed", "NotImplemented"}:
                    raise
                return error.code == "PreconditionFailed"
        return False

    def _get(self, key: str, offset: int) -> BaseHTTPResponse:
        return self._client.get_object(self._name, key, offset)

    def _call(
        self,
        method: str,
        key: str | None = None,
        *,
        query: Mapping[str, str] = EMPTY,
        headers: Mapping[str, str] = EMPTY,
    ) -> BaseHTTPResponse:
        """A call that minio-py has no public method for: the one place that leans on a private one."""
        return self._client._execute(method, self._name, key, headers=dict(headers), query_params=dict(query))


def part_bytes(size_bytes: int) -> int:
    """Parts as small as the limit on their number allows, since four of them are held in memory."""
    return max(SMALLEST_PART_BYTES, -(-size_bytes // MOST_PARTS))
