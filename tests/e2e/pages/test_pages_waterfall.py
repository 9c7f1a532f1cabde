"""Where a run's time went, over HTTP and on its page."""

import html
import json
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.e2e.pages.conftest import traces

from tunix_rt_common import telemetry
from tunix_rt_common.db.models import AttemptRecord, RunRecord, SpanRecord

BEGAN = datetime(2040, 1, 1, tzinfo=UTC)
"""After the requests of these tests."""


@pytest.fixture
def traced(site: Any) -> Iterator[Any]:
    """A site with a dataset whose API keeps spans."""
    site.import_traces(traces(60))
    site.build_dataset("apples", validation_fraction=0.1, test_fraction=0.1)
    telemetry.setup("api", site.world.database)
    yield site
    telemetry.shutdown()


def start_in_trace(site: Any, traceparent: str) -> str:
    """A run that a client starts within a trace of its own; its id."""
    body = json.dumps({"dataset": "apples", "base_model": "tiny"}).encode()
    headers = {"Content-Type": "application/json", "traceparent": traceparent}
    with urllib.request.urlopen(urllib.request.Request(f"{site.url}/api/v1/runs", body, headers)) as answer:
        return str(json.load(answer)["run_id"])


def traceparent_of(site: Any, run_id: str) -> str:
    with site.world.database.reading() as session:
        return str(session.get_one(RunRecord, UUID(run_id)).traceparent)


def flush(site: Any) -> None:
    telemetry.shutdown()
    telemetry.setup("api", site.world.database)


def trace_of(site: Any, run_id: str) -> dict[str, Any]:
    flush(site)
    return dict(site.get(f"/api/v1/runs/{run_id}/trace").json())


def add_span(site: Any, run_id: str, name: str, start_s: float, end_s: float, **fields: Any) -> str:
    """A span of the run as an exporter would keep it, seconds after a fixed moment; its id."""
    _, trace_id, root, _ = traceparent_of(site, run_id).split("-")
    span_id = uuid4().hex[:16]
    fields = {"service": "trainer", "status": "ok", "parent_span_id": root, "links": {"spans": []}} | fields
    attributes = {"tunix_rt.run_id": run_id} | fields.pop("attributes", {})
    with site.world.database.transaction() as session:
        session.add(
            SpanRecord(
                trace_id=trace_id,
                span_id=span_id,
                name=name,
                started_at=BEGAN + timedelta(seconds=start_s),
                ended_at=BEGAN + timedelta(seconds=end_s),
                attributes=attributes,
                **fields,
            )
        )
    return span_id


def test_the_request_that_started_a_run_is_the_root_of_its_trace(traced):
    run_id = traced.start_run("apples")
    [root] = trace_of(traced, run_id)["spans"]
    assert (root["name"], root["service"], root["status"]) == ("POST /api/v1/runs", "api", "ok")
    assert (root["depth"], root["offset_s"], root["parent_span_id"]) == (0, 0, None)
    assert root["attributes"]["http.response.status_code"] == 202
    assert traceparent_of(traced, run_id).split("-")[2] == root["span_id"]


def test_a_trace_that_the_client_began_is_continued(traced):
    trace = trace_of(traced, start_in_trace(traced, f"00-{'a' * 32}-{'b' * 16}-01"))
    assert trace["trace_id"] == "a" * 32
    assert [(span["parent_span_id"], span["depth"]) for span in trace["spans"]] == [("b" * 16, 0)]


def test_two_runs_of_one_trace_do_not_show_each_others_spans(traced):
    first, second = (start_in_trace(traced, f"00-{'a' * 32}-{'b' * 16}-01") for _ in range(2))
    add_span(traced, first, "train", 1, 2)
    assert [span["name"] for span in trace_of(traced, first)["spans"]] == ["POST /api/v1/runs", "train"]
    assert [span["name"] for span in trace_of(traced, second)["spans"]] == ["POST /api/v1/runs"]


def test_spans_come_depth_first_and_by_start(traced):
    run_id = traced.start_run("apples")
    train = add_span(traced, run_id, "train", 10, 40)
    steps = add_span(traced, run_id, "steps", 20, 30, parent_span_id=train)
    add_span(traced, run_id, "checkpoint", 29, 30, parent_span_id=steps, attributes={"tunix_rt.step": 9})
    add_span(traced, run_id, "data", 11, 12, parent_span_id=train)
    add_span(traced, run_id, "wait train", 5, 10)
    add_span(traced, run_id, "of an unknown parent", 6, 7, parent_span_id="f" * 16)
    trace = trace_of(traced, run_id)
    root, *spans = trace["spans"]
    assert [(span["depth"], span["name"]) for span in spans] == [
        (1, "wait train"),
        (1, "train"),
        (2, "data"),
        (2, "steps"),
        (3, "checkpoint"),
        (0, "of an unknown parent"),
    ]
    starts = [span["offset_s"] - spans[0]["offset_s"] for span in spans]
    assert starts == pytest.approx([0, 5, 6, 15, 24, 1])
    assert (root["offset_s"], spans[4]["duration_s"]) == (0, 1)
    assert trace["duration_s"] == pytest.approx(spans[1]["offset_s"] + 30)


def test_an_attempt_without_a_span_of_its_own_still_holds_its_children(traced):
    run_id = traced.start_run("apples")
    stage = traced.claim(run_id)
    _, trace_id, _, _ = traceparent_of(traced, run_id).split("-")
    with traced.world.database.transaction() as session:
        attempt = session.get_one(AttemptRecord, (stage.claim.job_id, stage.claim.attempt))
        attempt.traceparent = f"00-{trace_id}-{'e' * 16}-01"
    add_span(traced, run_id, "data", 1, 2, parent_span_id="e" * 16)
    spans = {span["name"]: span for span in trace_of(traced, run_id)["spans"]}
    assert (spans["train"]["status"], spans["train"]["service"]) == ("running", "trainer")
    assert spans["data"]["depth"] == spans["train"]["depth"] + 1 == 2


def test_a_checkpoint_of_a_killed_attempt_is_shown_within_that_attempt(traced):
    run_id, job = traced.start_run("apples"), {"tunix_rt.job_id": str(uuid4())}
    first = add_span(traced, run_id, "train", 1, 20, attributes=job)
    add_span(traced, run_id, "data", 2, 4, parent_span_id=first, attributes=job)
    add_span(traced, run_id, "train", 21, 40, attributes=job)
    add_span(traced, run_id, "checkpoint", 10, 11, parent_span_id="f" * 16, attributes=job)
    spans = trace_of(traced, run_id)["spans"]
    assert [(span["depth"], span["name"]) for span in spans[1:]] == [
        (1, "train"),
        (2, "data"),
        (2, "checkpoint"),
        (1, "train"),
    ]


def test_a_run_that_nobody_traced_has_an_empty_waterfall_and_no_card(site):
    site.import_traces(traces(60))
    site.build_dataset("apples", validation_fraction=0.1, test_fraction=0.1)
    run_id = site.start_run("apples")
    empty = {"trace_id": None, "started_at": None, "duration_s": 0, "spans": []}
    assert site.get(f"/api/v1/runs/{run_id}/trace").json() == empty
    assert "Where the time went" not in site.get(f"/runs/{run_id}").text


def test_the_trace_of_no_run_is_404(site):
    assert site.get(f"/api/v1/runs/{uuid4()}/trace").status == 404
    assert site.get("/api/v1/runs/nonsense/trace").status == 404


def test_the_page_draws_every_span_and_escapes_their_names(traced):
    run_id = traced.start_run("apples")
    add_span(traced, run_id, "<b>train</b>", 0, 61, attributes={"tunix_rt.attempt": 2}, status="error")
    flush(traced)
    page = traced.get(f"/runs/{run_id}").text
    assert "Where the time went" in page
    assert "<b>train" not in page
    shown = html.unescape(page)
    assert "<b>train</b>" in shown
    assert "attempt 2" in shown
    assert "1 min 01 s" in shown
    assert page.count('class="span-bar"') == 2


def test_a_trace_of_many_spans_makes_a_page_of_bounded_size(traced):
    run_id = traced.start_run("apples")
    for step in range(260):
        add_span(traced, run_id, "checkpoint", step, step + 1, attributes={"tunix_rt.step": step})
    page = traced.get(f"/runs/{run_id}").text
    assert page.count('class="span-bar"') == 200
    assert "more: <a" in page


def test_the_waterfall_is_drawn_in_the_browser(traced, page):
    run_id = traced.start_run("apples")
    train = add_span(traced, run_id, "train", 1, 60)
    add_span(traced, run_id, "steps", 31, 60, parent_span_id=train)
    flush(traced)
    with traced.world.database.transaction() as session:
        session.query(SpanRecord).filter_by(service="api").delete()
    page.goto(f"{traced.url}/runs/{run_id}")
    rows = page.get_by_role("region", name="Spans").get_by_role("row")
    bars = [rows.nth(index).locator("rect").bounding_box() for index in range(1, rows.count())]
    by_name = dict(
        zip([name.split()[0] for name in rows.locator("th[scope=row]").all_text_contents()], bars, strict=True)
    )
    assert by_name["steps"]["x"] > by_name["train"]["x"]
    ends = [box["x"] + box["width"] for box in (by_name["steps"], by_name["train"])]
    assert ends[0] == pytest.approx(ends[1], abs=2)
    assert by_name["steps"]["width"] == pytest.approx(by_name["train"]["width"] / 2, rel=0.05)
