"""A run's trace as a table of bars: pure SVG, colours by CSS class."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunix_rt_api.runs.schemas import SpanOut, TraceOut
from tunix_rt_api.web.formats import short_duration

MAX_ROWS = 200
MAX_DEPTH = 8
WIDTH, HEIGHT = 1000, 10
NARROWEST = 3
TOLD = ("attempt", "step", "decision")


@dataclass(frozen=True)
class Row:
    """A span with the words that tell it from its like, how deep it is indented, and its bar."""

    span: SpanOut
    words: Sequence[str]
    depth: int
    bar: Markup


@dataclass(frozen=True)
class Waterfall:
    """The first rows of a trace, and how many there are beyond them."""

    duration_s: float
    rows: Sequence[Row]
    more: int


def draw(trace: TraceOut) -> Waterfall:
    """The trace, ready to be shown."""
    rows = [_row(span, trace.duration_s) for span in trace.spans[:MAX_ROWS]]
    return Waterfall(trace.duration_s, rows, len(trace.spans) - len(rows))


def span_bar(span: SpanOut, total_s: float) -> Markup:
    """A bar from the span's start to its end on a scale of the whole trace, wide enough to be seen."""
    scale = WIDTH / total_s if total_s > 0 else 0.0
    width = min(max(span.duration_s * scale, NARROWEST), WIDTH)
    left = min(span.offset_s * scale, WIDTH - width)
    label = f"{short_duration(span.duration_s)}, from {short_duration(span.offset_s)} on"
    opening = Markup('<svg class="span-bar" role="img" aria-label="{}" viewBox="0 0 {} {}" preserveAspectRatio="none">')
    quarters = Markup("").join(
        Markup('<line class="grid" x1="{0}" y1="0" x2="{0}" y2="{1}"/>').format(x, HEIGHT)
        for x in range(0, WIDTH + 1, WIDTH // 4)
    )
    bar = Markup(
        '<rect class="service-{} status-{}" x="{:.1f}" y="1" width="{:.1f}" height="{}"><title>{}</title></rect>'
    )
    drawn = bar.format(span.service, span.status, left, width, HEIGHT - 2, label)
    return opening.format(label, WIDTH, HEIGHT) + quarters + drawn + Markup("</svg>")


def _row(span: SpanOut, total_s: float) -> Row:
    told = [(name, span.attributes.get(f"tunix_rt.{name}")) for name in TOLD]
    words = [f"{name} {value}" if name != "decision" else str(value) for name, value in told if value is not None]
    return Row(span, words, min(span.depth, MAX_DEPTH), span_bar(span, total_s))
