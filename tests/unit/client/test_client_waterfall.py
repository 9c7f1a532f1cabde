"""A run's trace as it is drawn in the terminal."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tunix_rt.commands.waterfall import draw_bar, print_waterfall, seconds, title
from tunix_rt.types import RunTrace, Span

BEGAN = datetime(2026, 11, 22, tzinfo=UTC)


def span(name: str = "train", **fields: Any) -> Span:
    known = {"span_id": "a" * 16, "parent_span_id": None, "service": "trainer", "started_at": BEGAN, "depth": 0}
    timed = {"duration_s": 1.0, "offset_s": 0.0, "status": "ok", "attributes": {}, "links": []}
    return Span.model_validate({"name": name} | known | timed | fields)


@pytest.mark.parametrize(
    ("offset_s", "duration_s", "bar"),
    [
        (0, 10, "━━━━━━━━━━"),
        (5, 5, "     ━━━━━"),
        (0, 0.001, "━"),
        (10, 0, "         ━"),
        (9.5, 2, "         ━"),
    ],
)
def test_a_bar_goes_from_start_to_end_and_is_always_seen(offset_s, duration_s, bar):
    assert draw_bar(span(offset_s=offset_s, duration_s=duration_s), 10, 10) == bar


def test_a_trace_without_duration_can_be_drawn():
    assert draw_bar(span(duration_s=0), 0.0, 10) == "━"


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0123, "12 ms"), (3.44, "3.4 s"), (60, "1 min 00 s"), (125.4, "2 min 05 s"), (4210, "1 h 10 min")],
)
def test_durations_are_told_in_the_unit_that_suits_them(value, told):
    assert seconds(value) == told


def test_a_title_tells_attempt_step_and_a_bad_ending():
    assert title(span("checkpoint", depth=2, attributes={"tunix_rt.step": 20})) == "    checkpoint · step 20"
    assert title(span(status="lost", attributes={"tunix_rt.attempt": 2})) == "train · attempt 2 · lost"


def test_every_span_is_a_line_and_control_characters_do_not_act(capsys):
    spans = [span("POST /api/v1/runs", service="api"), span("\x1b[31mtrain", depth=1)]
    print_waterfall(RunTrace(trace_id="a" * 32, started_at=BEGAN, duration_s=1, spans=spans))
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert [line.split()[0] for line in told.splitlines() if "━━" in line] == ["POST", "\\x1b[31mtrain"]
