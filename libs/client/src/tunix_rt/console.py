"""What the command shows: results on stdout, progress and messages on stderr.

Text that comes from models, traces or logs is made harmless before it reaches a terminal. Where stdout is no terminal
there are no colours, no control characters and no line breaks at column 80.
"""

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import IO, NoReturn

from pydantic import BaseModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from tunix_rt.downloads import Progress as ProgressCallback

FILE_WIDTH = 1000


class PipedConsole(Console):
    """A console that lets a closed pipe end the program instead of deciding its exit status."""

    def on_broken_pipe(self) -> NoReturn:
        """Hand the broken pipe on."""
        raise BrokenPipeError


def out() -> Console:
    """Where results go."""
    return _console(sys.stdout)


def err() -> Console:
    """Where messages and progress go."""
    return _console(sys.stderr)


def print_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(_plain(value), indent=2, ensure_ascii=False) + "\n")


def print_text(text: str = "", style: str = "") -> None:
    """Print a line of text, made harmless."""
    out().print(Text(printable(text), style=style), soft_wrap=True)


def note(message: str) -> None:
    """Tell something that is no result."""
    err().print(Text(printable(message)), soft_wrap=True)


def print_error(message: str, details: Sequence[str] = ()) -> None:
    """Tell what is wrong and what to do; details that the message holds already are left out."""
    err().print(Text("error: ", style="bold red") + Text(printable(message), style="red"), soft_wrap=True)
    for detail in details:
        if not any(part in message for part in (detail, detail.partition(": ")[2])):
            err().print(Text(f"  {printable(detail)}", style="red"), soft_wrap=True)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns of numbers are flush right."""
    cells = [list(row) for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, heading in enumerate(headings):
        numbers = bool(cells) and all(isinstance(row[index], int | float | None) for row in cells)
        table.add_column(heading, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(shown(cell)) for cell in row))
    out().print(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Print name and value of what is known of one thing, a line each."""
    known = [(name, shown(value)) for name, value in fields if value is not None]
    width = max((len(name) for name, _ in known), default=0)
    for name, value in known:
        out().print(Text(name.ljust(width), style="dim") + Text(f"  {value}"), soft_wrap=True)


def shown(value: object) -> str:
    """A value as a cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


def printable(text: str) -> str:
    """The text with every control character but line feed and tab written out, so that none can act."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)


def shortened(text: str, width: int = 60) -> str:
    """The text on one line, cut to a width."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def percent(share: float | None) -> str:
    """A share as a percentage."""
    return "-" if share is None else f"{100 * share:.1f}%"


@contextmanager
def byte_progress(label: str, total: int | None) -> Iterator[ProgressCallback]:
    """Show a bar that the yielded function moves on by bytes; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err(), transient=True, disable=not err().is_terminal) as progress:
        task = progress.add_task(printable(label), total=total)
        yield lambda size: progress.advance(task, size)


@contextmanager
def waiting(label: str) -> Iterator[Callable[[str], None]]:
    """Show that something is being waited for, in words that the yielded function changes.

    Nothing where stderr is no terminal.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err(), transient=True, disable=not err().is_terminal) as progress:
        task = progress.add_task(printable(label), total=None)
        yield lambda words: progress.update(task, description=printable(words))


def _console(stream: IO[str]) -> Console:
    width = None if stream.isatty() else FILE_WIDTH
    return PipedConsole(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    return value
