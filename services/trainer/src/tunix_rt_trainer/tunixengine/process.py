"""Speaking with google-tunix's process: batches go in as they are taken, reports come out a line each."""

import json
import os
import queue
import subprocess
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tunix_rt_common.engines import TUNIX_MISSING
from tunix_rt_common.errors import EngineMissing
from tunix_rt_trainer.engine.batches import Batch

PEER = Path(__file__).with_name("peer.py")
QUIET_S = 1.0
LENGTH_BYTES = 8

Report = dict[str, Any]


class TunixProcess:
    """One training by google-tunix, in a `with`; it ends when the block does, and with this process."""

    def __init__(self, python: str, folder: Path, batches: Iterator[Batch]) -> None:
        """`batches` is drawn from on a thread of its own, as fast as they are taken."""
        self._batches = batches
        self._reports: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        heard, told = os.pipe()
        try:
            self._process = subprocess.Popen(
                [python, "-I", PEER, folder, str(told)], stdin=subprocess.PIPE, pass_fds=(told,)
            )
        except OSError as error:
            os.close(heard)
            raise EngineMissing(f"{TUNIX_MISSING} ({python}: {error.strerror})") from error
        finally:
            os.close(told)
        self._threads = [
            threading.Thread(target=self._feed, name="tunix-batches", daemon=True),
            threading.Thread(target=self._listen, args=(heard,), name="tunix-reports", daemon=True),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join()

    def reports(self) -> Iterator[Report | None]:
        """What it says until it is done; None again and again while it says nothing.

        Raises:
            EngineMissing: google-tunix is not in its environment.
            RuntimeError: it ended before it was done; its words are in this process's standard error.
        """
        while True:
            try:
                report = self._reports.get(timeout=QUIET_S)
            except queue.Empty:
                yield None
                continue
            if report is None:
                raise RuntimeError(f"google-tunix ended with status {self._process.wait()}: its words are in the logs")
            if missing := report.get("missing"):
                raise EngineMissing(f"{TUNIX_MISSING} ({missing})")
            if report.get("done"):
                return
            yield report

    def _feed(self) -> None:
        assert self._process.stdin  # noqa: S101
        try:
            with self._process.stdin as sink:
                for batch in self._batches:
                    sink.write(_packed(batch))
        except BrokenPipeError:
            pass

    def _listen(self, heard: int) -> None:
        with os.fdopen(heard, "rb") as lines:
            for line in lines:
                self._reports.put(json.loads(line))
        self._reports.put(None)


def _packed(batch: Batch) -> bytes:
    """A batch as `peer.py` reads it: an npz file behind its length."""
    packed = BytesIO()
    np.savez(packed, token_ids=batch.token_ids, loss_weights=batch.loss_weights, present=batch.segments > 0)
    return len(packed.getvalue()).to_bytes(LENGTH_BYTES, "little") + packed.getvalue()
