"""Datasets: building, waiting, reading."""

import time
from collections.abc import Iterator, Sequence
from typing import Literal

from tunix_rt.connection import Connection, quoted
from tunix_rt.types import TERMINAL_STATES, Dataset, DatasetDetail, PreviewRow
from tunix_rt_common.specs import DatasetSpec, Target

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

    def export(self, reference: str, *, split: Split | None = None) -> Iterator[bytes]:
        """Yield the rows of a version, or of one split, as bytes of newline-delimited JSON."""
        with self._connection.stream(f"/datasets/{quoted(reference)}/export.jsonl", {"split": split}) as chunks:
            yield from chunks
