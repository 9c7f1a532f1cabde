"""The inside of an exec'd child: talk to the supervisor, leave when told, die with the parent.

The supervisor passes the claim and a pipe in the environment. Its end of our standard input is the lifeline: when it
closes, the supervisor is gone and so are we.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tunix_rt_common import telemetry
from tunix_rt_common.db.models import utc_now
from tunix_rt_common.db.session import Database
from tunix_rt_common.endings import ExitCode
from tunix_rt_common.errors import InvalidInput, OwnershipLost, TunixError, Unavailable
from tunix_rt_common.jobreport import CLAIM_VARIABLE, REPORT_FD_VARIABLE, AnyLine, Failure, Progress, Result, Story
from tunix_rt_common.messages import MESSAGES, SERVICES
from tunix_rt_common.pipeline import Claim
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.world import World

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1
TRACEPARENT_VARIABLE = "TRACEPARENT"
CLAIMS = TypeAdapter(Claim)
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class ToldToLeave(Exception):
    """The supervisor asked us to go, and what we had is kept."""


@dataclass
class Child:
    """What a job's code gets: its claim, the database, the store, and a voice that several threads may use."""

    claim: Claim
    settings: Settings
    database: Database
    store: ArtifactStore
    leaving: threading.Event
    _pipe: int
    _speaking: threading.Lock = field(default_factory=threading.Lock)
    _step: int = 0

    def progress(self, step: int, total_steps: int | None = None, **numbers: float | None) -> None:
        """Prove progress; numbers become the metrics of that step."""
        self._step = step
        self._say(Progress(step=step, total_steps=total_steps, numbers=numbers))

    def waits(self) -> None:
        """Prove that it waits for something and does not hang: the step stays where it is."""
        self._say(Progress(step=self._step))

    def story(self, kind: str, message: str, **detail: Any) -> None:
        """Tell the user something; it goes to the captured logs too."""
        logger.info("%s", message)
        self._say(Story(kind=kind, message=message, detail=detail))

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[object]:
        """Mark the block as one part of the run's trace."""
        return telemetry.span(name, **attributes)

    def annotate(self, **attributes: Any) -> None:
        """Add to the current part what became known after it began."""
        telemetry.annotate(**attributes)

    def result(self, result: dict[str, Any]) -> None:
        """Hand over what was made."""
        self._say(Result(result=result))

    def failure(self, message: str) -> None:
        """Say why it cannot be done."""
        self._say(Failure(message=message))

    def _say(self, line: AnyLine) -> None:
        payload = memoryview(line.model_dump_json().encode() + b"\n")
        with self._speaking:
            while payload:
                payload = payload[os.write(self._pipe, payload) :]


def run_child(work: Callable[[Child], dict[str, Any]]) -> int:
    """Run a job's code at the edge of its process: the exit code is the ending, and no stack trace is the user's.

    Errors that we did not foresee pass through: their trace goes to the captured logs, and the attempt counts.
    """
    child = _connect()
    claim = child.claim
    telemetry.setup(SERVICES[MESSAGES[claim.kind].queue], child.database)
    try:
        with (
            telemetry.continued(os.environ.get(TRACEPARENT_VARIABLE)),
            telemetry.context(run_id=claim.run_id, job_id=claim.job_id),
        ):
            _record_start()
            return _ending(work, child)
    finally:
        telemetry.shutdown()


def _record_start() -> None:
    """The time from exec to here, most of it spent on imports; only Linux tells when a process began."""
    if sys.platform == "linux":
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        telemetry.record("start", utc_now() - timedelta(seconds=age_s), utc_now(), parent=None)


def _ending(work: Callable[[Child], dict[str, Any]], child: Child) -> int:
    try:
        child.result(work(child))
    except ToldToLeave:
        return ExitCode.PREEMPTED
    except OwnershipLost:
        return ExitCode.OWNERSHIP_LOST
    except Unavailable as error:
        child.failure(str(error))
        return ExitCode.STORAGE_AWAY
    except TunixError as error:
        child.failure(f"{error.field}: {error}" if isinstance(error, InvalidInput) and error.field else str(error))
        return ExitCode.USER_ERROR
    except MemoryError as error:
        child.failure(f"out of memory: {error}; lower train.batch_size or train.max_tokens")
        return ExitCode.OUT_OF_MEMORY
    return ExitCode.DONE


def describe_claim(claim: Claim) -> str:
    """The claim as the environment carries it."""
    return CLAIMS.dump_json(claim).decode()


def _connect() -> Child:
    _die_with_parent()
    logging.basicConfig(format=LOG_FORMAT, force=True)
    for ours in ("tunix_rt_common", "tunix_rt_trainer", "__main__"):
        logging.getLogger(ours).setLevel(logging.INFO)
    settings = Settings()
    world = World.open(settings)
    child = Child(
        claim=CLAIMS.validate_json(os.environ[CLAIM_VARIABLE]),
        settings=settings,
        database=world.database,
        store=world.store,
        leaving=threading.Event(),
        _pipe=int(os.environ[REPORT_FD_VARIABLE]),
    )
    signal.signal(signal.SIGTERM, lambda *_: child.leaving.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_lifeline, name="lifeline", daemon=True).start()
    return child


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch_lifeline() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(ExitCode.OWNERSHIP_LOST)
