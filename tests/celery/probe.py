"""The app of the experiments: tasks that note in a journal what becomes of them, and end when they are told to."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task

app = Celery("probe", broker=os.environ["PROBE_BROKER"])
app.conf.update(json.loads(os.environ["PROBE_SETTINGS"]))
FOLDER = Path(os.environ["PROBE_FOLDER"])
IMPORTED_BY = os.getpid()
CHILDREN = {
    "plain": "import time; print(flush=True); time.sleep(600)",
    "lifeline": "import sys; print(flush=True); sys.stdin.read()",
    "pdeathsig": "import ctypes, time; ctypes.CDLL(None).prctl(1, 9); print(flush=True); time.sleep(600)",
}


def note(event: str, name: str, **facts: Any) -> None:
    """Append a line; one write, so that lines of several processes do not mix."""
    line = json.dumps({"event": event, "name": name, "pid": os.getpid(), **facts}) + "\n"
    with (FOLDER / "journal").open("a", buffering=1) as journal:
        journal.write(line)


def work_until_released(task: Task, name: str) -> None:
    """Start, wait for the file `release-NAME`, end."""
    note("start", name, redelivered=bool(task.request.delivery_info.get("redelivered")))
    while not (FOLDER / f"release-{name}").exists():
        time.sleep(0.02)
    note("end", name)


@app.task(bind=True, acks_late=False)
def early(self: Task, name: str) -> None:
    """Acknowledged when it starts, as every doorbell of ours is."""
    work_until_released(self, name)


@app.task(bind=True, acks_late=True)
def late(self: Task, name: str) -> None:
    """Acknowledged when it has ended."""
    work_until_released(self, name)


@app.task
def mark(name: str) -> None:
    """Show that the worker still works, in a fresh interpreter or in a fork of the worker's."""
    note("mark", name, fresh_interpreter=os.getpid() == IMPORTED_BY)


@app.task
def measure(text: str) -> None:
    """Show that the whole text arrived."""
    note("measured", str(len(text)))


@app.task(bind=True)
def spawn(self: Task, name: str) -> None:
    """Start a process of each kind, wait until it lives, and work on."""
    for kind, code in CHILDREN.items():
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        note("child", kind, child=child.pid)
    work_until_released(self, name)
