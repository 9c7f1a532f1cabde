"""Datasets: building, waiting, reading."""

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tunix_rt.connection import Connection, quoted
from tunix_rt.downloads import Progress, ignore_progress, placed_folder, save
from tunix_rt.errors import ClientError
from tunix_rt.types import TERMINAL_STATES, Dataset, DatasetDetail, PreviewRow
from tunix_rt_common.specs import DatasetSpec, Target

if TYPE_CHECKING:
    from tunix_rt_common.datasets import DatasetManifest

Split = Literal["train", "validation", "test"]


class Datasets:
    """The dataset versions of a server; a reference is an id, NAME@VERSION, or NAME for its newest version."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def build(self, spec: DatasetSpec) -> Dataset:
        """Ask for a new version; what the spec leaves unset is the server's to choose."""
        body = spec.model_dump(mode="json", exclude_unset=True)
        return self._connection.order("/datasets", Dataset, body)

    def wait(self, reference: str, *, interval_s: float = 0.3) -> DatasetDetail:
        """Wait until the build has ended, well or not: look at `state` and `failure`."""
        while (dataset := self.get(reference)).state not in TERMINAL_STATES:
            time.sleep(interval_s)
        return dataset

    def list(self, *, limit: int | None = None) -> Iterator[Dataset]:
        """Dataset versions, newest first."""
        return self._connection.pages("/datasets", Dataset, limit=limit)

    def get(self, reference: str) -> DatasetDetail:
        """One version with its manifest."""
        return self._connection.get(f"/datasets/{quoted(reference)}", DatasetDetail)

    def preview(
        self, reference: str, *, target: Target | None = None, split: Split | None = None, limit: int | None = None
    ) -> Sequence[PreviewRow]:
        """The first rows of a split as a model will see them."""
        params = {"target": target, "split": split, "limit": limit}
        return self._connection.get(f"/datasets/{quoted(reference)}/preview", tuple[PreviewRow, ...], params)

    def export(self, reference: str, *, split: Split | None = None) -> Generator[bytes, None, None]:
        """Yield the rows of a version, or of one split, as bytes of newline-delimited JSON."""
        with self._connection.stream(f"/datasets/{quoted(reference)}/export.jsonl", {"split": split}) as chunks:
            yield from chunks

    def pull(
        self, reference: str, folder: Path, *, replace: bool = False, progress: Progress = ignore_progress
    ) -> "DatasetManifest":
        """Download a version as its manifest and shards; `folder` is there in whole, every hash checked, or not at all.

        Raises:
            ClientError: the version is not built, or `folder` is not empty and `replace` is not given.
            DamagedDownload: a shard is not what the manifest lists.
        """
        from tunix_rt_common.datasetfolder import write_manifest
        from tunix_rt_common.datasets import DatasetManifest

        found = self._connection.get(f"/datasets/{quoted(reference)}", dict[str, Any])["manifest"]
        if found is None:
            raise ClientError(f"{reference} has not been built: `tunix-rt datasets show {reference}` says why")
        manifest = DatasetManifest.model_validate(found)
        with placed_folder(folder, replace=replace) as fresh:
            write_manifest(fresh, manifest)
            with closing(self.export(reference)) as chunks:
                rows = _Cutter(chunks)
                for shard in manifest.shards:
                    save(rows.take(shard.size_bytes), fresh / shard.path, shard.sha256, progress)
        return manifest


class _Cutter:
    """Cuts a stream of chunks into pieces of given sizes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._held = b""

    def take(self, size_bytes: int) -> Iterator[bytes]:
        """The next bytes, so many of them, or what is left."""
        while size_bytes:
            self._held = self._held or next(self._chunks, b"")
            piece, self._held = self._held[:size_bytes], self._held[size_bytes:]
            if not piece:
                return
            size_bytes -= len(piece)
            yield piece
