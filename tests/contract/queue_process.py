"""A server of a queue on Redis as a process of its own, and what can be done to it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.servers.processes import children_of, is_alive

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60.0
SECRET = "a long random text"


def eventually(condition, patience_s=PATIENCE_S):
    """What the condition is in the end."""
    deadline = time.monotonic() + patience_s
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return met


class QueueProcess:
    """`queue_server`, with a spawned pool as in a deployment; what it logs is in a file beside what it heard."""

    def __init__(self, url, name, recorder, module="tests.contract.queue_server"):
        self.recorder = recorder
        self._log = recorder.file.with_suffix(".log")
        command = [sys.executable, "-m", module, url, name, str(recorder.file), str(recorder.busy_s)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=os.environ | {"QUEUE_SECRET": SECRET}, stderr=log, start_new_session=True
            )
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def log(self):
        return self._log.read_text(errors="replace")

    def is_running(self):
        return self._process.poll() is None

    def family(self):
        """Itself and what it has started."""
        return [self.pid, *children_of(self.pid)]

    def tell(self, number=signal.SIGTERM):
        self._process.send_signal(number)

    def stop(self):
        """Its status after SIGTERM."""
        self.tell()
        return self.wait()

    def wait(self):
        return self._process.wait(PATIENCE_S)

    def kill(self):
        """SIGKILL to the main process alone, and its end."""
        self._process.kill()
        self._process.wait()


def ends(pids, patience_s):
    """Whether the processes are gone in time."""
    return eventually(lambda: not any(map(is_alive, pids)), patience_s)
