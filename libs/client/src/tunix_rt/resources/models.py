"""Models: versions, files, aliases."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from tunix_rt.connection import PAGE_SIZE, Connection, quoted
from tunix_rt.downloads import Progress, ignore_progress, placed_folder, save
from tunix_rt.types import Alias, Model, ModelFile, ModelVersion


class Models:
    """The registry of a server; `which` is the number of a version, or an alias."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Sequence[Model]:
        """Every registered model."""
        return self._connection.get("/models", tuple[Model, ...])

    def get(self, name: str) -> Model:
        """One model."""
        return self._connection.get(f"/models/{quoted(name)}", Model)

    def versions(self, name: str) -> Iterator[ModelVersion]:
        """A model's versions, newest first."""
        before: int | None = None
        full = True
        while full:
            params = {"limit": PAGE_SIZE, "before": before}
            page = self._connection.get(f"/models/{quoted(name)}/versions", tuple[ModelVersion, ...], params)
            yield from page
            before, full = (page[-1].version if page else None), len(page) == PAGE_SIZE

    def version(self, name: str, which: str) -> ModelVersion:
        """One version."""
        return self._connection.get(f"/models/{quoted(name)}/versions/{quoted(which)}", ModelVersion)

    def promote(self, name: str, version: int, *, alias: str, expected_version: int | None) -> Alias:
        """Move an alias that points to `expected_version` now (None: nowhere); the gate has to allow it."""
        body = {"version": version, "expected_version": expected_version}
        return self._connection.send("PUT", f"/models/{quoted(name)}/aliases/{quoted(alias)}", Alias, body)

    def pull(
        self, version: ModelVersion, folder: Path, *, replace: bool = False, progress: Progress = ignore_progress
    ) -> None:
        """Download all files of a version; `folder` is there in whole, every hash checked, or not at all.

        Raises:
            ClientError: `folder` is not empty, and `replace` is not given.
            DamagedDownload: a file is not what the version lists.
        """
        with placed_folder(folder, replace=replace) as fresh:
            for file in version.files:
                self._download(version, file, fresh / file.path, progress)

    def _download(self, version: ModelVersion, file: ModelFile, target: Path, progress: Progress) -> None:
        path = f"/models/{quoted(version.name)}/versions/{version.version}/files/{quote(file.path)}"
        with self._connection.stream(path) as chunks:
            save(chunks, target, file.sha256, progress)
