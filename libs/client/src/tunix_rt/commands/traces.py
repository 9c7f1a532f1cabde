"""`tunix-rt traces`: import, generate, list."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click

from tunix_rt.client import Client
from tunix_rt.commands.options import STDOUT, json_option, limit_option, refuse_json_beside_stdout
from tunix_rt.console import byte_progress, note, print_json, print_table, print_text, shortened, waiting
from tunix_rt.downloads import placed_file
from tunix_rt.exitcodes import ExitCode
from tunix_rt.resources.traces import TraceFormat
from tunix_rt.server import connect
from tunix_rt.synthetic import Operation, arithmetic_traces
from tunix_rt.types import ImportOutcome

SHOWN_REJECTIONS = 10


@click.group()
def traces() -> None:
    """Import, generate and list reasoning traces."""


@traces.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "trace_format",
    type=click.Choice(("auto", "native", "gsm8k", "messages", "prompt-completion", "preference")),
    default="auto",
    show_default=True,
    help="What a line looks like.",
)
@click.option("--source", help="Where the traces come from; the file's name without its ending unless given.")
@json_option
def import_(files: Sequence[Path], trace_format: TraceFormat, source: str | None, *, as_json: bool) -> ExitCode:
    """Import FILES of newline-delimited JSON.

    Traces that are stored already count as duplicates. Bad lines are reported and the rest is kept; the exit code is
    3 when there were any.

    \b
    Example:
      tunix-rt traces import gsm8k.jsonl --format gsm8k
    """
    with connect() as client:
        outcomes = [(file, _upload(client, file, trace_format, source)) for file in files]
    if as_json:
        print_json(_totals(outcomes))
    else:
        _show(outcomes)
    return ExitCode.PARTLY_REJECTED if any(outcome.rejected_count for _, outcome in outcomes) else ExitCode.OK


def _totals(outcomes: Sequence[tuple[Path, ImportOutcome]]) -> dict[str, object]:
    """All files together, and each by itself."""
    return {
        "accepted": sum(outcome.accepted for _, outcome in outcomes),
        "duplicates": sum(outcome.duplicates for _, outcome in outcomes),
        "rejected_count": sum(outcome.rejected_count for _, outcome in outcomes),
        "rejected": [
            {"file": str(file), **line.model_dump()} for file, outcome in outcomes for line in outcome.rejected
        ],
        "files": [{"file": str(file), **outcome.model_dump(exclude={"rejected"})} for file, outcome in outcomes],
    }


@traces.group()
def generate() -> None:
    """Make synthetic traces."""


@generate.command()
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many traces.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal traces.")
@click.option("--digits", type=click.IntRange(1, 9), default=3, show_default=True, help="Digits of each number.")
@click.option(
    "--operation",
    "operations",
    type=click.Choice(("+", "-")),
    multiple=True,
    default=("+",),
    show_default=True,
    help="May be given twice, for both.",
)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Write them to a file, or - for stdout; import nothing."
)
@json_option
def arithmetic(
    count: int, seed: int, digits: int, operations: Sequence[Operation], output: Path | None, *, as_json: bool
) -> ExitCode:
    """Make sums that are worked out column by column.

    They are imported into the server, or written with --output.

    \b
    Example:
      tunix-rt traces generate arithmetic --count 2000 --seed 1
      tunix-rt traces generate arithmetic --count 100 --operation + --operation - --output sums.jsonl
    """
    refuse_json_beside_stdout(output, as_json=as_json)
    lines = (json.dumps(record).encode() + b"\n" for record in arithmetic_traces(count, seed, digits, operations))
    if output is None:
        return _import_generated(lines, as_json=as_json)
    _write(lines, output)
    if as_json:
        print_json({"output": str(output), "count": count})
    elif output != STDOUT:
        note(f"{count} traces written to {output}")
    return ExitCode.OK


@traces.command("list")
@click.option("--source", help="Only those from here.")
@limit_option
@json_option
def list_(source: str | None, limit: int, *, as_json: bool) -> None:
    """List traces, newest first.

    \b
    Example:
      tunix-rt traces list --source gsm8k --limit 5
    """
    with connect() as client:
        found = list(client.traces.list(source=source, limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("trace", "source", "prompt", "steps", "answer"),
        [
            (
                row.trace_id,
                row.source,
                shortened(row.trace.prompt),
                len(row.trace.steps),
                shortened(row.trace.final_answer, 30),
            )
            for row in found
        ],
    )


def _upload(client: Client, file: Path, trace_format: TraceFormat, source: str | None) -> ImportOutcome:
    with byte_progress(file.name, file.stat().st_size) as progress:
        return client.traces.upload_file(file, trace_format=trace_format, source=source or file.stem, progress=progress)


def _import_generated(lines: Iterator[bytes], *, as_json: bool) -> ExitCode:
    with connect() as client, waiting("importing"):
        outcome = client.traces.upload(lines, trace_format="native")
    if as_json:
        print_json(outcome)
    else:
        _show([(Path("generated"), outcome)])
    return ExitCode.PARTLY_REJECTED if outcome.rejected_count else ExitCode.OK


def _write(lines: Iterable[bytes], output: Path) -> None:
    with ExitStack() as stack:
        sink = sys.stdout.buffer if output == STDOUT else stack.enter_context(placed_file(output))
        for line in lines:
            sink.write(line)


def _show(outcomes: Sequence[tuple[Path, ImportOutcome]]) -> None:
    print_table(
        ("file", "accepted", "duplicates", "rejected"),
        [(file, outcome.accepted, outcome.duplicates, outcome.rejected_count) for file, outcome in outcomes],
    )
    for file, outcome in outcomes:
        for row in outcome.rejected[:SHOWN_REJECTIONS]:
            print_text(f"{file}:{row.line}: {row.error}", style="red")
        if outcome.rejected_count > SHOWN_REJECTIONS:
            note(f"{file}: {outcome.rejected_count - SHOWN_REJECTIONS} more rejected lines; --json lists them")
