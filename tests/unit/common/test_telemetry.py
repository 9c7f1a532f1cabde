"""Spans: what is kept of them, what they are tied to, and what they must never cost."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select

from tunix_rt_common import telemetry
from tunix_rt_common.db.models import SpanRecord
from tunix_rt_common.db.session import Database, open_database

RUN = uuid4()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(f"sqlite:///{tmp_path}/spans.db")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def traced(database: Database) -> Iterator[Callable[[], dict[str, SpanRecord]]]:
    """Telemetry of a trainer; called, it ends it and returns the kept spans by name."""
    telemetry.setup("trainer", database)

    def kept() -> dict[str, SpanRecord]:
        telemetry.shutdown()
        with database.reading() as session:
            return {row.name: row for row in session.scalars(select(SpanRecord))}

    yield kept
    telemetry.shutdown()


def test_before_setup_nothing_happens_and_nothing_fails():
    with telemetry.span("train", run_id=RUN, links=[None]):
        telemetry.annotate(step=1)
        assert telemetry.traceparent() is None


def test_a_runs_spans_are_kept_with_service_parent_times_and_attributes(traced):
    with telemetry.span("train", run_id=RUN, attempt=2, nothing=None):
        outer = telemetry.traceparent()
        with telemetry.span("checkpoint", step=10, **{"http.route": "/x"}):
            pass
    spans = traced()
    train, checkpoint = spans["train"], spans["checkpoint"]
    assert outer.split("-")[:3] == ["00", train.trace_id, train.span_id]
    assert (train.parent_span_id, checkpoint.parent_span_id) == (None, train.span_id)
    assert train.trace_id == checkpoint.trace_id
    assert train.attributes == {"tunix_rt.run_id": str(RUN), "tunix_rt.attempt": 2}
    assert checkpoint.attributes == {"tunix_rt.run_id": str(RUN), "tunix_rt.step": 10, "http.route": "/x"}
    assert {span.service for span in spans.values()} == {"trainer"}
    assert {span.status for span in spans.values()} == {"ok"}
    assert train.started_at <= checkpoint.started_at <= checkpoint.ended_at <= train.ended_at


def test_spans_of_no_job_are_not_kept(traced):
    with telemetry.span("GET /api/v1/runs"), telemetry.span("query"):
        pass
    assert traced() == {}


def test_a_span_that_learns_its_run_while_it_lasts_is_kept(traced):
    with telemetry.span("POST /api/v1/runs"):
        telemetry.annotate(run_id=RUN)
    assert traced()["POST /api/v1/runs"].attributes == {"tunix_rt.run_id": str(RUN)}


def test_a_span_of_another_process_is_continued_and_earlier_attempts_are_linked(traced):
    parent, earlier = f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'a' * 32}-{'c' * 16}-01"
    with telemetry.span("train", parent=parent, links=[earlier, None, "broken"], run_id=RUN):
        pass
    with telemetry.continued(parent), telemetry.span("data", run_id=RUN):
        pass
    spans = traced()
    assert {(span.trace_id, span.parent_span_id) for span in spans.values()} == {("a" * 32, "b" * 16)}
    assert spans["train"].links == {"spans": [{"trace_id": "a" * 32, "span_id": "c" * 16}]}


@pytest.mark.parametrize("parent", ["", "nonsense", f"00-{'0' * 32}-{'b' * 16}-01", f"ff-{'a' * 32}-{'b' * 16}-01"])
def test_a_traceparent_that_is_none_begins_a_new_trace(traced, parent):
    with telemetry.span("train", parent=parent, run_id=RUN):
        pass
    kept = traced()["train"]
    assert kept.parent_span_id is None
    assert kept.trace_id not in {"0" * 32, "a" * 32}


def test_a_client_that_samples_nothing_does_not_blank_the_waterfall(traced):
    with telemetry.span("POST /api/v1/runs", parent=f"00-{'a' * 32}-{'b' * 16}-00", run_id=RUN):
        pass
    assert traced()["POST /api/v1/runs"].trace_id == "a" * 32


def test_the_wait_in_a_queue_is_recorded_after_it_is_over(traced):
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    began = datetime(2026, 1, 1, tzinfo=UTC)
    telemetry.record("wait train", began, began + timedelta(seconds=90), parent=parent, run_id=RUN, service="relay")
    waited = traced()["wait train"]
    assert (waited.started_at, waited.ended_at) == (began, began + timedelta(seconds=90))
    assert (waited.trace_id, waited.parent_span_id, waited.service) == ("a" * 32, "b" * 16, "relay")


def test_a_failed_span_names_the_error_and_never_its_message(traced):
    with pytest.raises(ValueError, match="s3cret"), telemetry.span("train", run_id=RUN):
        raise ValueError("s3cret")
    failed = traced()["train"]
    assert failed.status == "error"
    assert failed.attributes["error.type"] == "ValueError"
    assert "s3cret" not in str(failed.attributes)


def test_services_that_share_a_process_sign_their_own_spans(traced):
    with telemetry.span("POST /api/v1/runs", run_id=RUN, service="api"):
        with telemetry.span("train", service="trainer"):
            pass
        with telemetry.span("evaluate", service="evaluator"), telemetry.span("judge"):
            pass
    services = {name: span.service for name, span in traced().items()}
    assert services == {"POST /api/v1/runs": "api", "train": "trainer", "evaluate": "evaluator", "judge": "evaluator"}


def test_setup_again_for_another_database_keeps_spans_there(traced, tmp_path):
    telemetry.setup("relay")
    telemetry.setup("trainer", other := open_database(f"sqlite:///{tmp_path}/other.db"))
    other.migrate()
    with telemetry.span("train", run_id=RUN):
        pass
    assert traced() == {}
    with other.reading() as session:
        assert session.scalars(select(SpanRecord.name)).all() == ["train"]
    other.close()


def test_a_database_that_is_away_costs_its_spans_and_nothing_else(caplog):
    away = open_database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    telemetry.setup("trainer", away)
    with telemetry.span("train", run_id=RUN):
        pass
    telemetry.shutdown()
    assert caplog.messages == ["the database takes no spans: they are dropped until it does"]


WORK = """
import sys, time
from tunix_rt_common import telemetry
telemetry.setup("trainer")
with telemetry.span("data"):
    pass
time.sleep(float(sys.argv[1]))
with telemetry.span("steps"):
    pass
began = time.monotonic()
telemetry.shutdown()
print(time.monotonic() - began)
"""


def shutdown_s(endpoint: str, work_s: float) -> float:
    """How long a process that worked for a while takes to say good-bye to a collector."""
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    told = subprocess.run(
        [sys.executable, "-c", WORK, str(work_s)], env=environment, capture_output=True, text=True, check=True
    )
    return float(told.stdout)


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A collector that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_collector_that_never_answers_costs_a_short_process_at_most_its_patience(black_hole):
    assert shutdown_s(black_hole, work_s=0) < telemetry.SHUTDOWN_S + 0.5


def test_a_collector_that_never_answers_is_not_waited_for_by_who_knows_it(black_hole):
    assert shutdown_s(black_hole, work_s=3) < 0.5


def test_children_are_given_no_collector_while_it_does_not_answer(black_hole, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", black_hole)
    telemetry.setup("trainer")
    with telemetry.span("wait"):
        pass
    assert telemetry.child_environment() == {}
    deadline = time.monotonic() + 10
    while not (given := telemetry.child_environment()) and time.monotonic() < deadline:
        time.sleep(0.05)
    telemetry.shutdown()
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == ""


def test_a_dead_collector_is_not_waited_for():
    assert shutdown_s("http://127.0.0.1:1", work_s=3) < 0.5


def test_without_an_endpoint_no_exporter_is_loaded():
    program = """
import sys
from tunix_rt_common import telemetry
telemetry.setup("trainer")
with telemetry.span("train"): pass
telemetry.shutdown()
print([name for name in sys.modules if "otlp" in name or name == "requests"])
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    told = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert (told.stdout.strip(), told.stderr) == ("[]", "")


def test_ids_do_not_depend_on_who_seeds_random(traced):
    import random

    ids = set()
    for _ in range(2):
        random.seed(0)
        with telemetry.span("train"):
            ids.add(telemetry.traceparent())
    assert len(ids) == 2
