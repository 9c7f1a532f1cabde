"""Imports: runs that were trained without a platform, from their bundles."""

from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from tunix_rt.connection import Connection
from tunix_rt.downloads import Progress, ignore_progress
from tunix_rt.errors import ApiError
from tunix_rt.types import Run
from tunix_rt_common import runbundle
from tunix_rt_common.reports import digest

CHUNK_BYTES = 1 << 20


class Imports:
    """What a server took in from bundles."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def bundle(self, folder: Path, *, progress: Progress = ignore_progress) -> Run:
        """Take in the run of a bundle, with its data, metrics, evaluation and model; the same bundle is the same run.

        Its files are compared with their digests here, then sent; `progress` is told how many bytes went out.

        Raises:
            InvalidInput: the bundle is incomplete or was changed; nothing has been sent.
        """
        bundle = runbundle.read_bundle(folder)
        if known := self._known(digest(bundle)):
            return known
        runbundle.check_files(folder, bundle)
        for entry in bundle.files:
            self._connection.put_file(f"/imports/files/{entry.sha256}", _chunks(folder / entry.path, progress))
        return self._connection.send("POST", "/imports", Run, bundle.model_dump(mode="json"), patient=True)

    def _known(self, bundle_sha256: str) -> Run | None:
        try:
            return self._connection.get(f"/imports/{bundle_sha256}", Run)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None


def _chunks(path: Path, progress: Progress) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            yield chunk
            progress(len(chunk))
