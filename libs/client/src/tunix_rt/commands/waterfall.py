"""A run's trace as bars in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tunix_rt.console import out, printable
from tunix_rt.types import RunTrace, Span

MIN_BAR, MAX_BAR = 10, 60
WIDTH_OF_WORDS = 60
STYLES = {"ok": "green", "running": "cyan", "error": "red", "lost": "red"}


def print_waterfall(trace: RunTrace) -> None:
    """Print a line for each span: what, who, how long, and a bar from its start to its end."""
    console = out()
    width = max(MIN_BAR, min(MAX_BAR, console.width - WIDTH_OF_WORDS))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("span", no_wrap=True)
    table.add_column("service", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column(f"0 to {seconds(trace.duration_s)}", width=width, no_wrap=True)
    for span in trace.spans:
        bar = Text(draw_bar(span, trace.duration_s, width), style=STYLES.get(span.status, ""))
        table.add_row(Text(title(span)), Text(printable(span.service)), seconds(span.duration_s), bar)
    console.print(table)


def title(span: Span) -> str:
    """What the span is, with the attempt or step that tells it from its like, and how it ended unless well."""
    told = [span.attributes.get(f"tunix_rt.{name}") for name in ("attempt", "step")]
    numbers = [f"{name} {number}" for name, number in zip(("attempt", "step"), told, strict=True) if number is not None]
    ending = [] if span.status == "ok" else [span.status]
    return "  " * span.depth + printable(" · ".join([span.name, *numbers, *ending]))


def draw_bar(span: Span, total_s: float, width: int) -> str:
    """At least one cell, however short the span; never beyond the last one."""
    scale = width / total_s if total_s > 0 else 0.0
    start = min(width - 1, max(0, int(span.offset_s * scale)))
    length = min(width - start, max(1, round(span.duration_s * scale)))
    return " " * start + "━" * length


def seconds(value: float) -> str:
    """A duration in the unit that suits it: 12 ms, 3.4 s, 2 min 05 s, 1 h 10 min."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
