"""A file on its way in: to this machine's disk first, and into the store when it is what it is called."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from starlette.exceptions import HTTPException

from tunix_rt_api.deps import Services
from tunix_rt_common.errors import InvalidInput, Unavailable
from tunix_rt_common.ids import new_id
from tunix_rt_common.storage.base import check_sha256


class Upload:
    """One file, in a `with`; nothing is left of it on this machine afterwards."""

    def __init__(self, services: Services, sha256: str) -> None:
        self._services = services
        self._sha256 = check_sha256(sha256)
        self._path: Path = services.settings.scratch_dir / "uploads" / new_id().hex
        self._hash = hashlib.sha256()
        self._size_bytes = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self._path.open("xb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; 413 when there are more than this server takes."""
        limit = self._services.settings.max_upload_bytes
        self._size_bytes += len(chunk)
        if self._size_bytes > limit:
            raise HTTPException(
                413,
                f"the file is larger than {limit} bytes: split the weights into several safetensors files, or raise "
                "TUNIX_RT_MAX_UPLOAD_BYTES",
                {"Connection": "close"},
            )
        self._hash.update(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise Unavailable(
                f"this server's disk takes no more ({error.strerror}): free some space, and send the file again"
            ) from error

    def finish(self) -> None:
        """Store the file.

        Raises:
            InvalidInput: its content has another hash.
        """
        found = self._hash.hexdigest()
        if found != self._sha256:
            raise InvalidInput(
                f"the content has sha256 {found}, not {self._sha256}: it was changed or cut; send it again",
                field="sha256",
            )
        self._file.flush()
        self._services.store.put_file(self._path)
