"""How a run goes, at this moment: the part of its page that changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup
from sqlalchemy.orm import Session

from tunix_rt_api.runs import service
from tunix_rt_api.runs.schemas import EventOut, LogOut, MetricOut, RunDetail
from tunix_rt_api.runs.waterfall import run_trace
from tunix_rt_api.web import queries
from tunix_rt_api.web.charts import Point, Series, line_chart
from tunix_rt_api.web.waterfall import Waterfall, draw
from tunix_rt_common.db.models import EventRecord, LogRecord, utc_now
from tunix_rt_common.states import TERMINAL

MAX_EVENTS = 200
MAX_LOG_PIECES = 40
MAX_LOG_CHARS = 20_000


@dataclass(frozen=True)
class Figure:
    """A chart and what is written above it."""

    title: str
    unit: str
    legend: Sequence[str]
    svg: Markup


@dataclass(frozen=True)
class LiveRun:
    """A run with its curves, the newest part of its story and of its output."""

    run: RunDetail
    terminal: bool
    elapsed_s: float | None
    eta_s: float | None
    figures: Sequence[Figure]
    waterfall: Waterfall
    story: Sequence[EventOut]
    logs: Sequence[LogOut]
    as_of: datetime


def live_run(session: Session, run_id: str) -> LiveRun:
    """Read a run; `NotFound` when there is none."""
    row = service.find_run(session, run_id)
    run = service.show_detail(session, row)
    now = utc_now()
    metrics = queries.curve(session, row.id, run.spec.train.validate_every)
    story_start = queries.before_newest(session, EventRecord, row.id, MAX_EVENTS)
    logs_start = queries.before_newest(session, LogRecord, row.id, MAX_LOG_PIECES)
    return LiveRun(
        run=run,
        terminal=run.state in TERMINAL,
        elapsed_s=((run.finished_at or now) - run.started_at).total_seconds() if run.started_at else None,
        eta_s=_eta_s(run, metrics, now),
        figures=figures(metrics) if metrics or not run.finished_at else [],
        waterfall=draw(run_trace(session, row)),
        story=service.events(session, row.id, story_start, MAX_EVENTS),
        logs=newest_output(service.logs(session, row.id, logs_start, MAX_LOG_PIECES, ["stdout", "stderr"])),
        as_of=now,
    )


def figures(metrics: Sequence[MetricOut]) -> list[Figure]:
    """Loss, throughput and learning rate over the steps."""
    loss = [Series("training", _points(metrics, "loss"))]
    loss.append(Series("validation", _measured(metrics, "validation_loss"), "dots"))
    speed = [Series("throughput", _points(metrics, "tokens_per_s"))]
    rate = [Series("learning rate", _points(metrics, "learning_rate"))]
    return [
        Figure("Loss", "nats per token", ("training", "validation"), line_chart("Loss", loss)),
        Figure("Throughput", "tokens/s", (), line_chart("Throughput", speed, unit="tokens/s", from_zero=True)),
        Figure("Learning rate", "", (), line_chart("Learning rate", rate, from_zero=True)),
    ]


def newest_output(pieces: Sequence[LogOut]) -> list[LogOut]:
    """The last pieces of output that together stay below MAX_LOG_CHARS; the first of them may be cut."""
    kept: list[LogOut] = []
    room = MAX_LOG_CHARS
    for piece in reversed(pieces):
        if room <= 0:
            break
        kept.append(piece.model_copy(update={"text": piece.text[-room:]}))
        room -= len(piece.text)
    return kept[::-1]


def _eta_s(run: RunDetail, metrics: Sequence[MetricOut], now: datetime) -> float | None:
    """Seconds until training ends, less those that have passed since it was estimated."""
    if run.state != "running" or run.stage != "train" or not metrics:
        return None
    eta_s = metrics[-1].numbers.get("eta_s")
    return None if eta_s is None else max(0.0, eta_s - (now - metrics[-1].at).total_seconds())


def _points(metrics: Sequence[MetricOut], name: str) -> list[Point]:
    return [(row.step, row.numbers.get(name)) for row in metrics]


def _measured(metrics: Sequence[MetricOut], name: str) -> list[Point]:
    """Only steps that have this number: it is not expected at each."""
    return [(row.step, row.numbers[name]) for row in metrics if row.numbers.get(name) is not None]
