"""A service of the cluster: a process tree of its own, its log, and the ways to hurt it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from tests.servers.processes import is_alive
from tests.servers.ready import wait_until

MARK = "TUNIX_RT_TEST_SERVICE"
ORPHAN_PATIENCE_S = 10
STOP_PATIENCE_S = 40
POOL = b"spawn_main"
JOBS = (b"\0tests.faults.suite.lighttrain\0", b"\0tests.faults.suite.lightevaluate\0")


class Service:
    """One `python -m …` with all that it starts, found by a mark in their environment. It dies with our thread."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = ["setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", *command]
        self._mark = f"{MARK}={name}-{uuid4().hex}"
        name_of_mark, _, value = self._mark.partition("=")
        self._environment = environment | {name_of_mark: value}
        self._process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        """Whether it should run: whoever tends the cluster starts it again when it has ended."""

    def start(self, **environment: str) -> None:
        """Start it; it may not be ready yet."""
        self.wanted = True
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self._process, f"{self.name} was not started"
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether its main process is gone."""
        return self._process is None or self._process.poll() is not None

    def family(self) -> list[int]:
        """Its main process and all that came of it, first to last."""
        return sorted(pid for pid in _all_pids() if self._mark.encode() in _read(pid, "environ").split(b"\0"))

    def pool(self) -> list[int]:
        """The processes that handle messages."""
        return [pid for pid in self.family() if POOL in _read(pid, "cmdline")]

    def jobs(self) -> list[int]:
        """The children that do jobs."""
        return [pid for pid in self.family() if any(job in _read(pid, "cmdline") for job in JOBS)]

    def kill_main(self) -> None:
        """SIGKILL to the main process alone; the others have to notice by themselves."""
        _signal([self.pid], signal.SIGKILL)
        self._wait_for_main()

    def kill_pool(self) -> None:
        """SIGKILL to the process that handles messages."""
        _signal(self.pool(), signal.SIGKILL)

    def kill_jobs(self) -> None:
        """SIGKILL to the children that do jobs."""
        _signal(self.jobs(), signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL to all of it at once, as the death of a container is."""
        _signal(self.family(), signal.SIGKILL)
        self._wait_for_main()

    def stop(self) -> int:
        """SIGTERM, and its exit status; it is not started again."""
        self.wanted = False
        assert self._process
        self._process.terminate()
        try:
            return self._process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise

    def freeze(self, pids: Iterable[int] | None = None) -> list[int]:
        """SIGSTOP to all of it, or to some; whom."""
        frozen = list(self.family() if pids is None else pids)
        _signal(frozen, signal.SIGSTOP)
        return frozen

    def thaw(self) -> None:
        """Let all of it go on."""
        _signal(self.family(), signal.SIGCONT)

    def close(self) -> None:
        """End all of it."""
        self.wanted = False
        if self._process:
            self.kill_all()

    def wait_until_all_are_gone(self) -> None:
        """`TimeoutError` when something outlives its main process."""
        wait_until(lambda: not self.family(), f"the end of what {self.name} has started", ORPHAN_PATIENCE_S)

    def tail(self, size_bytes: int = 3000) -> str:
        """Its last words."""
        return self.log.read_bytes()[-size_bytes:].decode(errors="replace") if self.log.exists() else ""

    def _wait_for_main(self) -> None:
        assert self._process
        self._process.wait()


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and is_alive(int(entry.name))]


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
