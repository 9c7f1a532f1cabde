"""Runs: starting, following, pausing, cancelling."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tunix_rt.connection import Connection, quoted
from tunix_rt.errors import ServerAway
from tunix_rt.types import Event, Log, Metric, Run, RunDetail, RunTrace
from tunix_rt_common.specs import RunSpec

T = TypeVar("T")

EVENTS_PER_CALL = 1000
LOGS_PER_CALL = 1000
RECENT_STEPS = 1000
RETRY_S = 1.0


@dataclass(frozen=True)
class RunUpdate:
    """What a run is now, and what happened since the update before."""

    run: RunDetail
    events: Sequence[Event]
    metrics: Sequence[Metric]


class Runs:
    """The runs of a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, spec: RunSpec) -> Run:
        """Start a run; what the spec leaves unset is the server's to choose."""
        return self._connection.order("/runs", Run, spec.model_dump(mode="json", exclude_unset=True))

    def list(self, *, state: str | None = None, limit: int | None = None) -> Iterator[Run]:
        """Runs, newest first."""
        return self._connection.pages("/runs", Run, {"state": state}, limit=limit)

    def get(self, run_id: str) -> RunDetail:
        """One run."""
        return self._connection.get(f"/runs/{quoted(run_id)}", RunDetail)

    def cancel(self, run_id: str) -> Run:
        """Ask a run to end; asking twice, or too late, changes nothing."""
        return self._connection.send("POST", f"/runs/{quoted(run_id)}/cancel", Run)

    def pause(self, run_id: str) -> Run:
        """Ask a run to keep a checkpoint and wait; asking twice, or too late, changes nothing."""
        return self._connection.send("POST", f"/runs/{quoted(run_id)}/pause", Run)

    def resume(self, run_id: str) -> Run:
        """Let a paused run go on from its last checkpoint."""
        return self._connection.send("POST", f"/runs/{quoted(run_id)}/resume", Run)

    def events(self, run_id: str, *, after: int = 0) -> Iterator[Event]:
        """The story after the event with this id, in order."""
        size = EVENTS_PER_CALL
        while size == EVENTS_PER_CALL:
            params = {"after": after, "limit": EVENTS_PER_CALL}
            events = self._connection.get(f"/runs/{quoted(run_id)}/events", tuple[Event, ...], params)
            yield from events
            size = len(events)
            after = events[-1].event_id if events else after

    def metrics(self, run_id: str, *, after_step: int = -1) -> Sequence[Metric]:
        """What the steps after this one measured, in order; at most 10,000 at once."""
        return self._connection.get(f"/runs/{quoted(run_id)}/metrics", tuple[Metric, ...], {"after_step": after_step})

    def trace(self, run_id: str) -> RunTrace:
        """Where the time went, over all services; no spans where nothing was traced."""
        return self._connection.get(f"/runs/{quoted(run_id)}/trace", RunTrace)

    def logs(self, run_id: str, *, follow: bool = False, interval_s: float = 1.0) -> Iterator[Log]:
        """What the stages wrote, in order; with `follow`, until the run has ended."""
        after, finished = 0, not follow
        while True:
            for log in self._logs(run_id, after):
                after = log.log_id
                yield log
            if finished:
                return
            time.sleep(interval_s)
            finished = self.get(run_id).finished

    def follow(self, run_id: str, *, interval_s: float = 0.5, patience_s: float = 60.0) -> Iterator[RunUpdate]:
        """Yield updates until the run has ended; a server that is away for less than `patience_s` is waited for."""
        last_event, last_step = 0, -1
        while True:
            update = _patiently(lambda: self._update(run_id, last_event, last_step), patience_s)  # noqa: B023
            last_event = update.events[-1].event_id if update.events else last_event
            last_step = update.metrics[-1].step if update.metrics else max(last_step, update.run.step - RECENT_STEPS)
            yield update
            if update.run.finished:
                return
            time.sleep(interval_s)

    def _update(self, run_id: str, last_event: int, last_step: int) -> RunUpdate:
        """Read the run before its events, so that the last update misses none."""
        run = self.get(run_id)
        after_step = max(last_step, run.step - RECENT_STEPS)
        return RunUpdate(run, tuple(self.events(run_id, after=last_event)), self.metrics(run_id, after_step=after_step))

    def _logs(self, run_id: str, after: int) -> Iterator[Log]:
        size = LOGS_PER_CALL
        while size == LOGS_PER_CALL:
            params = {"after": after, "limit": LOGS_PER_CALL}
            logs = self._connection.get(f"/runs/{quoted(run_id)}/logs", tuple[Log, ...], params)
            yield from logs
            size = len(logs)
            after = logs[-1].log_id if logs else after


def _patiently(call: Callable[[], T], patience_s: float) -> T:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return call()
        except ServerAway:
            if time.monotonic() >= deadline:
                raise
        time.sleep(RETRY_S)
