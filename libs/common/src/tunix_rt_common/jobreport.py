"""What a job says while it runs: the lines that a child writes to its supervisor, and the buffer they land in."""

import threading
import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

REPORT_FD_VARIABLE = "TUNIX_RT_REPORT_FD"
CLAIM_VARIABLE = "TUNIX_RT_CLAIM"


Step = Annotated[int, Field(ge=0, lt=2**31)]


class Line(BaseModel):
    """One JSON line from child to supervisor."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Progress(Line):
    """The job has got this far; `numbers` are kept as the metrics of that step."""

    say: Literal["progress"] = "progress"
    step: Step
    total_steps: Step | None = None
    numbers: dict[str, float | None] = {}


class Story(Line):
    """Something worth telling the user."""

    say: Literal["story"] = "story"
    kind: str
    message: str
    detail: dict[str, Any] = {}


class Result(Line):
    """The job is done; this is what it made."""

    say: Literal["result"] = "result"
    result: dict[str, Any]


class Failure(Line):
    """The job cannot be done, and why, in words for the user."""

    say: Literal["failure"] = "failure"
    message: str


AnyLine = Progress | Story | Result | Failure


class JobReport:
    """Collects what a job says until the next heartbeat writes it down. Shared by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._unsaved: list[Progress | Story] = []
        self._logs: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.step: int | None = None
        self.total_steps: int | None = None
        self.result: dict[str, Any] | None = None
        self.failure: str | None = None
        self.heard_at = time.monotonic()

    def hear(self, line: AnyLine) -> None:
        """Take one line."""
        with self._lock:
            self.heard_at = time.monotonic()
            if isinstance(line, Result):
                self.result = line.result
            elif isinstance(line, Failure):
                self.failure = line.message
            else:
                self._unsaved.append(line)
            if isinstance(line, Progress):
                self.step, self.total_steps = line.step, line.total_steps or self.total_steps

    def log(self, stream: str, chunk: bytes) -> None:
        """Take a piece of the child's output."""
        with self._lock:
            self._logs[stream].extend(chunk)

    def take(self) -> tuple[list[Progress | Story], dict[str, bytes]]:
        """What was said since the last call; the caller must save it or `give_back` it."""
        with self._lock:
            lines, self._unsaved = self._unsaved, []
            logs = {stream: bytes(text) for stream, text in self._logs.items() if text}
            for text in self._logs.values():
                text.clear()
            return lines, logs

    def give_back(self, lines: list[Progress | Story], logs: dict[str, bytes]) -> None:
        """Saving failed: keep it for the next time, in order."""
        with self._lock:
            self._unsaved = lines + self._unsaved
            for stream, text in logs.items():
                self._logs[stream][:0] = text
