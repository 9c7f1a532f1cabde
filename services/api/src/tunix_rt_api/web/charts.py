"""Points to SVG, in pure Python: no script, no inline style, colours by CSS class.

Every function returns escaped `Markup`. Numbers that are not finite, or beyond LARGEST, are gaps and never an error: a
run that diverged has to be drawn too.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from markupsafe import Markup

from tunix_rt_api.web.formats import percent, short_number

Point = tuple[float, float | None]
Finite = tuple[float, float]

MAX_POINTS = 300
MAX_HOVERS = 100
LARGEST = 1e100
FLAT = 1e-9
WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 410, 12, 184
BAR_WIDTH, BAR_HEIGHT = 200, 22


@dataclass(frozen=True)
class Series:
    """Named points by ascending x; `y` is None, or not finite, where nothing was measured."""

    name: str
    points: Sequence[Point]
    marks: Literal["line", "dots"] = "line"


@dataclass(frozen=True)
class Frame:
    """Maps data to the plot area; `ticks_y` span the whole of it."""

    low_x: float
    high_x: float
    ticks_x: Sequence[float]
    ticks_y: Sequence[float]

    def x(self, value: float) -> float:
        """Pixels from the left."""
        return LEFT + (RIGHT - LEFT) * (value - self.low_x) / (self.high_x - self.low_x)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.ticks_y[0], self.ticks_y[-1]
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)


def line_chart(title: str, series: Sequence[Series], *, unit: str = "", from_zero: bool = False) -> Markup:
    """A chart of series over steps, 420 x 220 user units; `from_zero` makes the y axis begin at 0.

    Each series is drawn with at most MAX_POINTS points; hovering shows the numbers of the nearest one.
    """
    drawn = [Series(one.name, downsample(one.points), one.marks) for one in series]
    known = [point for one in drawn for point in finite(one.points)]
    if not known:
        return _svg(f"{title}: no data yet", _text(WIDTH / 2, HEIGHT / 2, "no data yet", "empty", "middle"))
    frame = _frame(known, from_zero=from_zero)
    body = [_axes(frame)]
    for index, one in enumerate(drawn):
        draw = _line if one.marks == "line" else _dots
        body.append(draw(frame, one, unit, f"series-{index}"))
    return _svg(_description(title, drawn, unit), *body)


def interval_bar(value: float | None, low: float | None, high: float | None, confidence: float = 0.95) -> Markup:
    """A share of one as a bar from 0 to 1, its confidence interval as whiskers."""
    if value is None:
        return _bar_svg("nothing was scored", Markup(""))
    label, body = percent(value), _rect(0, 6, _bar_x(value), 10, "bar")
    if low is not None and high is not None:
        label += f", {confidence * 100:g} % interval {percent(low)} to {percent(high)}"
        body += _whiskers(_bar_x(low), _bar_x(high))
    return _bar_svg(label, body)


def downsample(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points that keep the shape: lowest and highest of each of `limit / 2` equal stretches.

    A stretch without a finite point stays as one gap.
    """
    if len(points) <= limit:
        return list(points)
    stretch = math.ceil(len(points) / (limit // 2))
    return [kept for start in range(0, len(points), stretch) for kept in _extremes(points[start : start + stretch])]


def finite(points: Iterable[Point]) -> Iterator[Finite]:
    """The points that can be drawn."""
    return ((x, y) for x, y in points if y is not None and abs(y) <= LARGEST)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers whose first is at most `low` and whose last is at least `high`."""
    if high - low <= FLAT * max(abs(low), abs(high), FLAT):
        room = abs(low) / 2 if abs(low) > FLAT else 0.5
        low, high = low - room, high + room
    step = _nice_step((high - low) / count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _extremes(stretch: Sequence[Point]) -> list[Point]:
    known = list(finite(stretch))
    if not known:
        return [(stretch[0][0], None)]
    lowest, highest = min(known, key=lambda point: point[1]), max(known, key=lambda point: point[1])
    return sorted({lowest, highest})


def _frame(known: Sequence[Finite], *, from_zero: bool) -> Frame:
    xs, ys = [x for x, _ in known], [y for _, y in known]
    low_y = min(0.0, *ys) if from_zero else min(ys)
    low_x, high_x = min(xs), max(xs)
    if low_x == high_x:
        low_x, high_x = low_x - 0.5, high_x + 0.5
    ticks_x = [tick for tick in nice_ticks(low_x, high_x) if low_x <= tick <= high_x and tick == round(tick)]
    return Frame(low_x, high_x, ticks_x, nice_ticks(low_y, max(ys)))


def _axes(frame: Frame) -> Markup:
    parts = []
    for tick in frame.ticks_y:
        y = frame.y(tick)
        parts += [_rule(LEFT, y, RIGHT, y, "grid"), _text(LEFT - 6, y + 4, short_number(tick), "tick", "end")]
    for tick in frame.ticks_x:
        x = frame.x(tick)
        parts += [_rule(x, BOTTOM, x, BOTTOM + 4, "axis"), _text(x, BOTTOM + 17, short_number(tick), "tick", "middle")]
    parts += [_rule(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"), _text(RIGHT, HEIGHT - 3, "step", "tick", "end")]
    return Markup("").join(parts)


def _line(frame: Frame, series: Series, unit: str, css: str) -> Markup:
    pieces = [[(frame.x(x), frame.y(y)) for x, y in piece] for piece in _pieces(series.points)]
    paths = "".join("M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in piece) for piece in pieces if len(piece) > 1)
    alone = Markup("").join(_circle(*piece[0], f"dot {css}") for piece in pieces if len(piece) == 1)
    path = Markup('<path class="line {}" d="{}"/>').format(css, paths) if paths else Markup("")
    return path + alone + _hovers(frame, series, unit)


def _pieces(points: Iterable[Point]) -> list[list[Finite]]:
    """The points between gaps."""
    pieces: list[list[Finite]] = [[]]
    for x, y in points:
        if y is not None and abs(y) <= LARGEST:
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _hovers(frame: Frame, series: Series, unit: str) -> Markup:
    """Invisible columns over the plot, each telling the numbers of the point in its middle."""
    known = list(finite(series.points))
    known = known[:: math.ceil(len(known) / MAX_HOVERS) or 1]
    xs = [frame.x(x) for x, _ in known]
    edges = [LEFT, *((left + right) / 2 for left, right in pairwise(xs)), RIGHT]
    return Markup("").join(
        _rect(left, TOP, right - left, BOTTOM - TOP, "hover", _reading(series.name, point, unit))
        for (left, right), point in zip(pairwise(edges), known, strict=False)
    )


def _dots(frame: Frame, series: Series, unit: str, css: str) -> Markup:
    return Markup("").join(
        _circle(frame.x(x), frame.y(y), f"dot {css}", _reading(series.name, (x, y), unit))
        for x, y in finite(series.points)
    )


def _reading(name: str, point: Finite, unit: str) -> str:
    return f"step {point[0]:g}: {name} {short_number(point[1])} {unit}".rstrip()


def _description(title: str, drawn: Sequence[Series], unit: str) -> str:
    """What a screen reader says: the newest number of each series."""
    newest = [(one.name, point) for one in drawn for point in list(finite(one.points))[-1:]]
    return f"{title} by step; newest: " + "; ".join(_reading(name, point, unit) for name, point in newest)


def _svg(label: str, *body: Markup) -> Markup:
    opening = Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">').format(label, WIDTH, HEIGHT)
    return opening + Markup("").join(body) + Markup("</svg>")


def _bar_svg(label: str, body: Markup) -> Markup:
    opening = Markup('<svg class="interval" role="img" aria-label="{}" viewBox="-2 0 {} {}"><title>{}</title>')
    scale = Markup("").join(_rule(x, 3, x, 19, "grid") for x in (0, BAR_WIDTH / 2, BAR_WIDTH))
    return opening.format(label, BAR_WIDTH + 4, BAR_HEIGHT, label) + scale + body + Markup("</svg>")


def _bar_x(share: float) -> float:
    return BAR_WIDTH * min(max(share, 0.0), 1.0)


def _whiskers(low: float, high: float) -> Markup:
    ends = Markup("").join(_rule(x, 6, x, 16, "whisker") for x in (low, high))
    return _rule(low, 11, high, 11, "whisker") + ends


def _rule(x1: float, y1: float, x2: float, y2: float, css: str) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')
    return line.format(css, x1, y1, x2, y2)


def _text(x: float, y: float, words: str, css: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(css, x, y, anchor, words)


def _circle(x: float, y: float, css: str, reading: str = "") -> Markup:
    title = Markup("<title>{}</title>").format(reading) if reading else Markup("")
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="3.5">{}</circle>').format(css, x, y, title)


def _rect(x: float, y: float, width: float, height: float, css: str, reading: str = "") -> Markup:
    title = Markup("<title>{}</title>").format(reading) if reading else Markup("")
    box = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">{}</rect>')
    return box.format(css, x, y, width, height, title)
