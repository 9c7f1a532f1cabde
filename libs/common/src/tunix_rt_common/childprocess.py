"""The outside of an exec'd child: start it, listen to it, stop it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from pydantic import TypeAdapter, ValidationError

from tunix_rt_common import telemetry
from tunix_rt_common.child import describe_claim
from tunix_rt_common.jobreport import CLAIM_VARIABLE, REPORT_FD_VARIABLE, AnyLine, JobReport
from tunix_rt_common.pipeline import Claim
from tunix_rt_common.settings import Settings

POLL_S = 0.1
GENTLE = {"cancel", "deadline", "pause", "shutdown", "timeout"}
"""Reasons that leave time for a checkpoint."""
READ_BYTES = 65_536
LINES: TypeAdapter[AnyLine] = TypeAdapter(AnyLine)
Reason = TypeVar("Reason", bound=str)


class ChildProcess:
    """`python -m MODULE` with the claim in its environment, a report pipe, captured output and a lifeline."""

    def __init__(
        self, module: str, claim: Claim, settings: Settings, report: JobReport, traceparent: str | None = None
    ) -> None:
        self._report = report
        self._grace_s = settings.stop_grace_s
        report_end, child_end = os.pipe()
        environment = (
            settings.child_environment()
            | telemetry.child_environment()
            | {
                CLAIM_VARIABLE: describe_claim(claim),
                REPORT_FD_VARIABLE: str(child_end),
                "PYTHONUNBUFFERED": "1",
            }
        )
        if traceparent:
            environment["TRACEPARENT"] = traceparent
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(claim.job_id)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(child_end,),
            start_new_session=True,
        )
        os.close(child_end)
        self._readers = [
            threading.Thread(target=self._read_report, args=(report_end,), daemon=True),
            threading.Thread(target=self._read_log, args=("stdout", self._process.stdout), daemon=True),
            threading.Thread(target=self._read_log, args=("stderr", self._process.stderr), daemon=True),
        ]
        self.exit_status = 0

    def __enter__(self) -> Self:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self.exit_status = self._process.wait()
        for reader in self._readers:
            reader.join(timeout=self._grace_s)
        if self._process.stdin:
            self._process.stdin.close()

    def wait(self, stop_reason: Callable[[], Reason | None]) -> Reason | None:
        """Wait for the child's end; told to stop, it has a grace time to save and leave. Why it was told, if it was."""
        reason = None
        while self._process.poll() is None and reason is None:
            reason = stop_reason()
            time.sleep(POLL_S)
        if reason is not None and self._process.poll() is None:
            self._stop(gently=reason in GENTLE)
        return reason

    def _stop(self, *, gently: bool) -> None:
        if not gently:
            self._process.kill()
            return
        self._process.terminate()
        try:
            self._process.wait(self._grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read_report(self, report_end: int) -> None:
        with os.fdopen(report_end, "rb") as lines:
            for line in lines:
                try:
                    self._report.hear(LINES.validate_json(line))
                except ValidationError:
                    self._report.log("stderr", b"(not a report line) " + line)

    def _read_log(self, stream: str, source: BinaryIO) -> None:
        while chunk := source.read1(READ_BYTES):  # type: ignore[attr-defined]
            self._report.log(stream, chunk)
