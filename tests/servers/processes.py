"""The servers as local processes: a port of their own, throwaway data, and the ways to hurt them.

A server dies with the thread that started it, so that nothing outlives a killed test run: start it from one that lives
as long as it is needed.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from tests.servers.binaries import MINIO, VERSITYGW, find_postgres, find_redis
from tests.servers.fresh import make_bucket
from tests.servers.ready import answers, wait_until

LOOPBACK = "127.0.0.1"
PORTS = range(10_000, 32_000)
"""Below those that the kernel hands to clients: a client that keeps trying cannot take a dead server's port."""
STOP_TIMEOUT_S = 20
POSTGRES_USER = POSTGRES_PASSWORD = "tunix-rt"
POSTGRES_FLAGS = ("-c", "max_connections=200")
REDIS_FLAGS = ("--appendonly", "yes", "--maxmemory-policy", "noeviction")


class Server(ABC):
    """A server process with its data; `with` starts it, and stops and forgets it."""

    system_user: ClassVar[str | None] = None
    """Who runs it where we are root."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tunix-rt-"))
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.prepare()
            self.start()
        except BaseException:
            self._forget()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients find it."""

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's own process; where it has children, they are not counted."""
        return self._running.pid

    @abstractmethod
    def command(self) -> list[str]:
        """How it is started on its port and data."""

    def environment(self) -> dict[str, str]:
        """What its environment says beside ours."""
        return {}

    def prepare(self) -> None:
        """Make what has to be there before the first start."""
        (self.folder / "data").mkdir()

    def start(self) -> None:
        """Start it and wait until it answers; `RuntimeError` with its last words when it ends instead."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.guarded(self.command()),
                env=os.environ | self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: self._ended() or answers(self.url), f"an answer from {self.url} ({self.log})")
        if self._ended():
            raise RuntimeError(f"{type(self).__name__} ended as it was started:\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ask it to leave in order, frozen or not; nothing happens when it is gone."""
        if self._ended():
            return
        self.thaw()
        os.kill(self.pid, self.stop_signal)
        try:
            self._running.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to it and its children; they are gone when this returns. What they gave to the kernel is kept."""
        if self._ended():
            return
        family = self.freeze()
        _signal(family, signal.SIGKILL)
        self._running.wait()
        wait_until(lambda: not any(map(is_alive, family)), f"the end of {family}")

    def freeze(self) -> list[int]:
        """SIGSTOP to it, then to its children, whose pids are told last: connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        family = [self.pid, *children_of(self.pid)]
        _signal(family, signal.SIGSTOP)
        return family

    def thaw(self) -> None:
        """Go on where it was frozen."""
        _signal([self.pid, *children_of(self.pid)], signal.SIGCONT)

    def restart(self) -> None:
        """Start again on the same port and data, after a stop if it runs."""
        self.stop()
        self.start()

    @property
    def log(self) -> Path:
        """What it has written to its output."""
        return self.folder / "log.txt"

    def guarded(self, command: list[str]) -> list[str]:
        """The command, which dies with us (PR_SET_PDEATHSIG), as its system user where we are root."""
        guard = ["setpriv", "--pdeathsig", "KILL"]
        if self.system_user and os.geteuid() == 0:
            guard += ["--reuid", self.system_user, "--regid", self.system_user, "--init-groups"]
        return [*guard, "--", *command]

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process, "the server was not started"
        return self._process

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _forget(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


class Postgres(Server):
    """Postgres as it would be run, fsync included, for its superuser over TCP alone. Root lends it a system user.

    It shares memory in files of its data folder, so that a killed one that nobody restarts leaves nothing in /dev/shm.
    """

    system_user = "postgres"
    stop_signal = signal.SIGINT

    @property
    def url(self) -> str:
        return postgres_url(self.address)

    def prepare(self) -> None:
        super().prepare()
        password = self.folder / "password"
        password.write_text(POSTGRES_PASSWORD)
        if os.geteuid() == 0:
            for path in (self.folder, self.folder / "data", password):
                shutil.chown(path, self.system_user, self.system_user)
        subprocess.run(self.guarded(self._initdb(password)), cwd=self.folder, check=True, stdout=subprocess.DEVNULL)

    def command(self) -> list[str]:
        listen = ["-p", str(self.port), "-c", f"listen_addresses={LOOPBACK}", "-c", "unix_socket_directories="]
        own_memory = ["-c", "dynamic_shared_memory_type=mmap"]
        return [f"{find_postgres()}/postgres", "-D", "data", *listen, *own_memory, *POSTGRES_FLAGS]

    def _initdb(self, password: Path) -> list[str]:
        login = ["--username", POSTGRES_USER, "--auth", "scram-sha-256", "--pwfile", str(password)]
        return [f"{find_postgres()}/initdb", "-D", "data", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", *login]


class Redis(Server):
    """Redis that writes every command to its log file and evicts nothing."""

    @property
    def url(self) -> str:
        return redis_url(self.address)

    def command(self) -> list[str]:
        listen = ["--bind", LOOPBACK, "--port", str(self.port), "--dir", str(self.folder / "data")]
        return [str(find_redis()), *listen, *REDIS_FLAGS, "--enable-debug-command", "local"]


class S3Server(Server):
    """An S3 server with a bucket, whose root user is the one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""

    @property
    def url(self) -> str:
        return s3_url(self.address)

    def start(self) -> None:
        super().start()
        make_bucket(self.url)


class Minio(S3Server):
    """MinIO on one folder."""

    def command(self) -> list[str]:
        return [str(MINIO.find()), "server", "--address", self.address, str(self.folder / "data")]

    def environment(self) -> dict[str, str]:
        return minio_root()


class VersityGateway(S3Server):
    """Versity's S3 gateway on one folder; metadata lie beside, since not every file system takes attributes."""

    def prepare(self) -> None:
        super().prepare()
        (self.folder / "metadata").mkdir()

    def command(self) -> list[str]:
        data = ["posix", "--sidecar", str(self.folder / "metadata"), str(self.folder / "data")]
        return [str(VERSITYGW.find()), "--quiet", "--port", self.address, *data]

    def environment(self) -> dict[str, str]:
        return gateway_root()


def postgres_url(address: str) -> str:
    """The superuser's own database on a Postgres at an address."""
    return f"postgresql+psycopg://{POSTGRES_USER}:{POSTGRES_PASSWORD}@{address}/postgres"


def redis_url(address: str) -> str:
    """The first database of a Redis at an address."""
    return f"redis://{address}/0"


def s3_url(address: str) -> str:
    """The tests' bucket on an S3 server at an address."""
    return f"s3://tests?endpoint=http://{address}&region=us-east-1"


def minio_root() -> dict[str, str]:
    """What makes the environment's credentials those of MinIO's root user."""
    return {
        "MINIO_ROOT_USER": os.environ["AWS_ACCESS_KEY_ID"],
        "MINIO_ROOT_PASSWORD": os.environ["AWS_SECRET_ACCESS_KEY"],
        "MINIO_BROWSER": "off",
    }


def gateway_root() -> dict[str, str]:
    """The same for Versity's gateway."""
    return {
        "ROOT_ACCESS_KEY": os.environ["AWS_ACCESS_KEY_ID"],
        "ROOT_SECRET_KEY": os.environ["AWS_SECRET_ACCESS_KEY"],
    }


def free_port() -> int:
    """A loopback port that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as candidate, suppress(OSError):
            candidate.bind((LOOPBACK, port))
            return port


def children_of(pid: int) -> list[int]:
    """The processes that a single-threaded one has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def is_alive(pid: int) -> bool:
    """Whether it runs or could; a zombie has ended, though nobody has asked for its status."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
