"""A handler that writes down what it hears: picklable, since a queue may handle messages in another process."""

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from tunix_rt_common import metrics
from tunix_rt_common.messages import AnyMessage
from tunix_rt_common.queue.base import Handle


def dropped():
    """What this process counts as dropped, by reason."""
    samples = [sample for family in metrics.REGISTRY.collect() for sample in family.samples]
    return {s.labels["reason"]: s.value for s in samples if s.name == "tunix_rt_doorbells_dropped_total"}


@dataclass(frozen=True)
class Recorder:
    """Makes a handler that appends to `file`; each message takes `busy_s`, or until told to leave."""

    file: Path
    busy_s: float = 0.0

    def __call__(self, stopping: threading.Event) -> Handle:
        def handle(message: AnyMessage) -> None:
            self._note("begun", message)
            left = bool(self.busy_s) and stopping.wait(self.busy_s)
            self._note("left" if left else "done", message)

        return handle

    def heard(self, what: str = "begun") -> list[str]:
        """The ids of the messages in order."""
        return [line["job_id"] for line in self.lines() if line["what"] == what]

    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def _note(self, what: str, message: AnyMessage) -> None:
        line = {
            "what": what,
            "kind": message.kind,
            "job_id": str(message.job_id),
            "pid": os.getpid(),
            "dropped": dropped(),
        }
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
