"""Writing what comes over the network: nothing half-written or damaged is ever left under its final name."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from tunix_rt.errors import ClientError, DamagedDownload

Progress = Callable[[int], None]


def ignore_progress(_: int) -> None:
    """For callers who do not watch."""


@contextmanager
def placed_file(target: Path) -> Iterator[BinaryIO]:
    """Open a neighbour of `target` that takes its name when the block ends, and vanishes when the block raises.

    What is not a regular file, such as /dev/null or a pipe, is written to directly.
    """
    if target.exists() and not target.is_file():
        with target.open("wb") as sink:
            yield sink
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with partial.open("xb") as sink:
            yield sink
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def placed_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """Make a neighbour of `target` that takes its name when the block ends, and vanishes when the block raises.

    Raises:
        ClientError: `target` is a file, or a folder with something in it and `replace` is not given.
    """
    if target.resolve() == Path.cwd():
        raise ClientError(f"{target} is the current folder, which cannot be replaced: name one below it")
    if target.exists() and not target.is_dir():
        raise ClientError(f"{target} is a file: name a folder")
    if not replace and target.is_dir() and any(target.iterdir()):
        raise ClientError(f"{target} is not empty: name another folder, or replace its content with --force")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as neighbour:
        fresh = Path(neighbour, "new")
        fresh.mkdir()
        yield fresh
        with suppress(FileNotFoundError):
            target.rename(Path(neighbour, "old"))
        fresh.rename(target)


def save(chunks: Iterable[bytes], target: Path, sha256: str, progress: Progress = ignore_progress) -> None:
    """Write the chunks to `target` if they have this hash; `progress` is told the size of each.

    Raises:
        DamagedDownload: they have another one; `target` is as it was before.
    """
    digest = hashlib.sha256()
    with placed_file(target) as sink:
        for chunk in chunks:
            digest.update(chunk)
            sink.write(chunk)
            progress(len(chunk))
        if digest.hexdigest() != sha256:
            raise DamagedDownload(
                f"{target.name} arrived damaged (sha256 {digest.hexdigest()}, expected {sha256}): download it again"
            )
