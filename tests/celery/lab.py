"""What an experiment is made of: a Redis of its own, real workers, and a journal of what their tasks did."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import celery
import kombu
import redis
from tests.servers import processes

HERE = Path(__file__).parent
PATIENCE_S = 30.0
POLL_S = 0.02
VISIBILITY_S = 1
QUEUE = "experiments"
SETTINGS: dict[str, Any] = {
    "accept_content": ["json"],
    "broker_connection_retry_on_startup": True,
    "task_default_queue": QUEUE,
    "task_ignore_result": True,
    "worker_prefetch_multiplier": 1,
}
SWEEP = {"unacked_restore_interval": 1, "unacked_restore_throttle": 1}
QUIET = ("--loglevel=INFO", "--without-gossip", "--without-mingle")
Found = TypeVar("Found")


@contextmanager
def pins(experiment: str, *, revisit: str) -> Iterator[None]:
    """Decorates an experiment: its failure names the versions, and the decision that rests on what was measured."""
    try:
        yield
    except AssertionError as failed:
        versions = f"Celery {celery.__version__}, kombu {kombu.__version__}"
        raise AssertionError(f"{experiment} does not hold with {versions}. Revisit {revisit}.\n{failed}") from failed


def until(find: Callable[[], Found], what: str, patience_s: float = PATIENCE_S) -> Found:
    """Poll until there is something; what it is."""
    deadline = time.monotonic() + patience_s
    while not (found := find()):
        assert time.monotonic() < deadline, f"waited {patience_s:.0f} s for {what}"
        time.sleep(POLL_S)
    return found


def process_state(pid: int) -> str:
    """R, S, T, Z … as in /proc; empty for a process that does not exist."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    return process_state(pid) not in {"", "Z"}


class Broker(processes.Redis):
    """Redis as the workers see it, with or without a file that outlives it."""

    def __init__(self, *, append_only: bool) -> None:
        super().__init__()
        self._append_only = append_only
        self.client = redis.Redis.from_url(self.url)

    def command(self) -> list[str]:
        return [*super().command(), "--appendonly", "yes" if self._append_only else "no", "--save", ""]

    def waiting(self, queue: str = QUEUE) -> int:
        """Messages in the queue."""
        return int(self.client.llen(queue))

    def clear(self, queue: str = QUEUE) -> None:
        """Withdraw what waits in the queue."""
        self.client.delete(queue)

    def unacknowledged(self) -> int:
        """Messages that a worker has taken and not acknowledged."""
        return int(self.client.hlen("unacked"))

    def blocked_poppers(self) -> int:
        """Clients that wait in BRPOP at this moment."""
        return sum(client["cmd"] == "brpop" and "b" in client["flags"] for client in self.client.client_list())


class Worker:
    """A real `celery worker`, leader of its process group."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], *options: str) -> None:
        self.name, self._log = name, folder / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", "probe", "worker", "-n", name, *QUIET, *options]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid

    def said(self, text: str) -> int:
        """How often its log has the text."""
        return self._log.read_text(errors="replace").count(text)

    def wait_until_ready(self) -> Self:
        until(lambda: self.said(f"{self.name} ready.") or not self.is_alive(), f"{self.name} to be ready")
        assert self.is_alive(), self._log.read_text()
        return self

    def wait_until_it_says(self, text: str, count: int = 1) -> None:
        until(lambda: self.said(text) >= count, f"{self.name} to say {text!r} {count} x")

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def freeze(self) -> None:
        """Stop the main process, and wait until it has stopped."""
        self._process.send_signal(signal.SIGSTOP)
        until(lambda: process_state(self.pid) == "T", f"{self.name} to be frozen")

    def thaw(self) -> None:
        """Let a frozen worker go on."""
        self._process.send_signal(signal.SIGCONT)

    def ask_to_leave(self) -> None:
        """SIGTERM: finish what runs, take nothing more."""
        self._process.terminate()

    def kill_main(self) -> None:
        """SIGKILL to the main process only."""
        self._process.kill()
        self._process.wait()

    def kill_group(self) -> None:
        """SIGKILL to the main process and its pool, as the death of a container is."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        until(lambda: not self.is_alive(), f"{self.name} to end")
        return self._process.wait()


class Lab:
    """One experiment: whatever it starts dies with it."""

    def __init__(self, folder: Path, *, append_only: bool = True, visibility_timeout: int = VISIBILITY_S) -> None:
        self.folder = folder
        folder.mkdir()
        self._stack = ExitStack()
        self._transport = SWEEP | {"visibility_timeout": visibility_timeout}
        self.broker = self._stack.enter_context(Broker(append_only=append_only))
        self._stack.enter_context(self.broker.client)
        self.app = celery.Celery("lab", broker=self.broker.url)
        self.app.conf.update(SETTINGS, broker_transport_options=self._transport)
        self._stack.callback(self.app.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(self, name: str, *options: str, **settings: Any) -> Worker:
        """A worker that may not be ready yet."""
        environment = {
            "PYTHONPATH": str(HERE),
            "PROBE_BROKER": self.broker.url,
            "PROBE_FOLDER": str(self.folder),
            "PROBE_SETTINGS": json.dumps(SETTINGS | {"broker_transport_options": self._transport} | settings),
        }
        worker = Worker(f"{name}@lab", self.folder, environment, *options)
        self._stack.callback(worker.kill_group)
        return worker

    def worker(self, name: str, *options: str, **settings: Any) -> Worker:
        """A worker that takes messages."""
        return self.start(name, *options, **settings).wait_until_ready()

    def send(self, task: str, name: str, queue: str = QUEUE, **options: Any) -> None:
        """Publish a message for a task of `probe`."""
        self.app.send_task(f"probe.{task}", [name], queue=queue, **options)

    def release(self, name: str) -> None:
        """Let the tasks of this name end."""
        (self.folder / f"release-{name}").touch()

    def notes(self, event: str, name: str) -> list[dict[str, Any]]:
        """What tasks of this name noted."""
        journal = self.folder / "journal"
        lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        return [line for line in lines if (line["event"], line["name"]) == (event, name)]

    def wait_for(self, event: str, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until it was noted so often."""
        return until(
            lambda: notes if len(notes := self.notes(event, name)) >= count else [], f"{count} x {event} of {name}"
        )
