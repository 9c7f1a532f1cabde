import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunix_rt_api.web.charts import (
    BOTTOM,
    LEFT,
    MAX_POINTS,
    RIGHT,
    TOP,
    Series,
    downsample,
    interval_bar,
    line_chart,
    nice_ticks,
)

any_number = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


def drawn(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def pixels(svg: str) -> list[tuple[float, float]]:
    path = drawn(svg).find("path")
    pairs = [] if path is None else path.attrib["d"].replace("M", " ").replace("L", " ").split()
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in pairs)]


def titles(svg: str) -> list[str]:
    return [title.text or "" for title in drawn(svg).iter("title")]


def test_a_chart_without_points_says_so() -> None:
    svg = line_chart("Loss", [Series("training", [])])
    assert "no data yet" in "".join(drawn(svg).itertext())


def test_one_point_is_a_dot() -> None:
    chart = drawn(line_chart("Loss", [Series("training", [(3, 1.5)])]))
    assert chart.find("path") is None
    assert len(list(chart.iter("circle"))) == 1


def test_a_falling_loss_is_drawn_falling_from_edge_to_edge() -> None:
    line = pixels(line_chart("Loss", [Series("training", [(0, 2.0), (5, 1.0), (10, 0.0)])]))
    assert line == [(LEFT, TOP), ((LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2), (RIGHT, BOTTOM)]


def test_what_is_not_a_number_is_a_gap_in_the_line() -> None:
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, None), (4, 2.0), (5, math.inf), (6, 1.0), (7, 1.5)]
    chart = drawn(line_chart("Loss", [Series("training", points)]))
    path = chart.find("path")
    assert path is not None
    assert path.attrib["d"].count("M") == 2
    assert len(list(chart.iter("circle"))) == 1


def test_hovering_tells_step_number_and_unit() -> None:
    svg = line_chart("Throughput", [Series("throughput", [(0, 51_234.0), (1, 52_000.0)])], unit="tokens/s")
    assert "step 0: throughput 51.23k tokens/s" in titles(svg)


def test_validation_points_are_dots_over_the_line() -> None:
    loss = Series("training", [(step, 1.0 + step) for step in range(5)])
    svg = line_chart("Loss", [loss, Series("validation", [(0, 2.0), (4, 3.5)], "dots")])
    assert len(list(drawn(svg).iter("circle"))) == 2
    assert "step 4: validation 3.5" in titles(svg)


def test_a_screen_reader_hears_the_newest_numbers() -> None:
    svg = line_chart("Loss", [Series("training", [(0, 2.0), (9, 0.5)])])
    assert drawn(svg).attrib["aria-label"] == "Loss by step; newest: step 9: training 0.5"


def test_hostile_names_stay_text() -> None:
    svg = line_chart("<script>alert(1)</script>", [Series('"><img onerror=x>', [(0, 1.0), (1, 2.0)])])
    assert "<script" not in svg
    assert "<img" not in svg


def test_nothing_is_styled_inline() -> None:
    svg = line_chart("Loss", [Series("training", [(0, 2.0), (9, 0.5)])]) + interval_bar(0.5, 0.4, 0.6)
    assert "style=" not in svg


def test_downsampling_keeps_a_single_spike() -> None:
    points = [(float(step), 1.0) for step in range(100_000)]
    points[54_321] = (54_321.0, 99.0)
    kept = downsample(points)
    assert len(kept) <= MAX_POINTS
    assert (54_321.0, 99.0) in kept


def test_a_short_curve_is_drawn_whole() -> None:
    points = [(float(step), float(step % 3)) for step in range(MAX_POINTS)]
    assert downsample(points) == points


def test_a_long_stretch_without_numbers_stays_a_gap() -> None:
    points = [(step, None if 4_000 < step < 6_000 else 1.0) for step in range(10_000)]
    svg = line_chart("Loss", [Series("training", points)])
    path = drawn(svg).find("path")
    assert path is not None
    assert path.attrib["d"].count("M") == 2


@given(st.lists(any_number, max_size=700))
def test_every_curve_can_be_drawn_inside_the_plot(values: list[float | None]) -> None:
    svg = line_chart("Loss", [Series("training", list(enumerate(values)))])
    for x, y in pixels(svg):
        assert LEFT - 0.1 <= x <= RIGHT + 0.1
        assert TOP - 0.1 <= y <= BOTTOM + 0.1


@given(st.floats(-1e100, 1e100), st.floats(-1e100, 1e100))
def test_ticks_are_few_and_span_the_range(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks = nice_ticks(low, high)
    room = 1e-6 * max(abs(low), abs(high), 1e-9)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + room
    assert ticks[-1] >= high - room


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1e-3, [0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3]),
        (0.31, 2.9, [0.0, 1.0, 2.0, 3.0]),
        (0.0, 37.0, [0.0, 10.0, 20.0, 30.0, 40.0]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


def test_an_interval_is_a_bar_with_whiskers() -> None:
    bar = drawn(interval_bar(0.76, 0.64, 0.85))
    rect = bar.find("rect")
    assert rect is not None
    assert float(rect.attrib["width"]) == pytest.approx(0.76 * 200)
    whisker = next(line.attrib for line in bar.iter("line") if line.attrib["class"] == "whisker")
    assert (float(whisker["x1"]), float(whisker["x2"])) == pytest.approx((128, 170))
    assert bar.attrib["aria-label"] == "76.0\u202f%, 95 % interval 64.0\u202f% to 85.0\u202f%"


def test_a_score_of_nothing_has_no_bar() -> None:
    bar = drawn(interval_bar(None, None, None))
    assert bar.attrib["aria-label"] == "nothing was scored"
    assert bar.find("rect") is None
