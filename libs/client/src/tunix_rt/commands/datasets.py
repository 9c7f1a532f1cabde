"""`tunix-rt datasets`: build, list, show, preview, export, pull."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from tunix_rt.client import Client
from tunix_rt.commands.options import (
    STDOUT,
    checked,
    json_option,
    limit_option,
    refuse_json_beside_stdout,
    split_option,
)
from tunix_rt.console import (
    byte_progress,
    note,
    out,
    print_error,
    print_fields,
    print_json,
    print_table,
    print_text,
    printable,
    waiting,
)
from tunix_rt.downloads import placed_file
from tunix_rt.exitcodes import ExitCode
from tunix_rt.resources.datasets import Split
from tunix_rt.server import connect, find_server
from tunix_rt.types import Dataset, DatasetDetail, PreviewRow
from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.specs import DatasetSpec, Target


@click.group()
def datasets() -> None:
    """Build, look at and export dataset versions.

    DATASET is NAME for its newest version, NAME@VERSION, or an id.
    """


@datasets.command()
@click.argument("name")
@click.option("--select", type=click.Choice(("all", "random", "latest")), help="Which of the matching traces.")
@click.option("--limit", type=int, help="At most so many traces.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="meta.KEY or source; may be repeated.")
@click.option("--source", help="Short for --filter source=SOURCE.")
@click.option("--validation-fraction", type=float, help="Share of the prompts kept for validation.")
@click.option("--test-fraction", type=float, help="Share of the prompts kept for judging.")
@click.option("--seed", type=int, help="Equal seeds split equal traces equally.")
@click.option("--rows-per-shard", type=int, help="Rows of one file.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the build is accepted.")
@json_option
def build(
    name: str, filters: Sequence[str], source: str | None, *, no_wait: bool, as_json: bool, **given: Any
) -> ExitCode:
    """Build a new version of dataset NAME from stored traces.

    Waits until it is built; the exit code is 1 when it could not be.

    \b
    Example:
      tunix-rt datasets build sums --source synthetic-arithmetic --test-fraction 0.1
    """
    spec = dataset_spec(name, filters, source, given)
    with find_server() as server, Client(server.url) as client:
        dataset: Dataset = client.datasets.build(spec)
        if not no_wait or server.own:
            dataset = _wait(client, dataset)
    print_json(dataset) if as_json else _show(dataset)
    return _told_failure(dataset)


@datasets.command("list")
@limit_option
@json_option
def list_(limit: int, *, as_json: bool) -> None:
    """List dataset versions, newest first.

    \b
    Example:
      tunix-rt datasets list
    """
    with connect() as client:
        found = list(client.datasets.list(limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("dataset", "id", "state", "digest", "created"),
        [
            (f"{row.name}@{row.version}", row.dataset_id, row.state, (row.dataset_sha256 or "")[:12], row.created_at)
            for row in found
        ],
    )


@datasets.command()
@click.argument("dataset")
@json_option
def show(dataset: str, *, as_json: bool) -> None:
    """Show one version of a DATASET.

    \b
    Example:
      tunix-rt datasets show sums@1
    """
    with connect() as client:
        found = client.datasets.get(dataset)
    print_json(found) if as_json else _show(found)


@datasets.command()
@click.argument("dataset")
@click.option("--target", type=click.Choice(("trace", "answer")), help="What the model shall learn to write.")
@click.option("--limit", type=click.IntRange(1, 50), help="How many rows.")
@split_option
@json_option
def preview(dataset: str, target: Target | None, limit: int | None, split: Split | None, *, as_json: bool) -> None:
    """Show the first rows of a DATASET as a model will see them; what the loss counts is in green.

    \b
    Example:
      tunix-rt datasets preview sums --target answer --limit 2
    """
    with connect() as client:
        rows = client.datasets.preview(dataset, target=target, split=split, limit=limit)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        _show_row(row)


@datasets.command()
@click.argument("dataset")
@click.option("--output", type=click.Path(path_type=Path), default=STDOUT, help="A file; stdout unless given.")
@split_option
@json_option
def export(dataset: str, output: Path, split: Split | None, *, as_json: bool) -> None:
    """Write the rows of a DATASET as newline-delimited JSON.

    \b
    Example:
      tunix-rt datasets export sums@1 --split test --output test.jsonl
    """
    refuse_json_beside_stdout(output, as_json=as_json)
    with connect() as client:
        size_bytes = _write(client.datasets.export(dataset, split=split), output)
    if as_json:
        print_json({"output": str(output), "size_bytes": size_bytes})
    elif output != STDOUT:
        note(f"{size_bytes} bytes written to {output}")


@datasets.command()
@click.argument("dataset")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace DIR, whatever is in it.")
@json_option
def pull(dataset: str, folder: Path, *, force: bool, as_json: bool) -> None:
    """Download a DATASET into DIR, every shard checked against its hash.

    DIR is there in whole or not at all; `python -m tunix_rt_trainer.offline` trains on it without a server.

    \b
    Example:
      tunix-rt datasets pull sums@1 ./sums-data
    """
    with connect() as client, byte_progress(dataset, None) as progress:
        manifest = client.datasets.pull(dataset, folder, replace=force, progress=progress)
    if as_json:
        print_json({"folder": str(folder.absolute()), "dataset_sha256": manifest.dataset_sha256})
    else:
        note(f"{manifest.statistics.rows} rows in {len(manifest.shards)} shards in {folder}")


def dataset_spec(name: str, filters: Sequence[str], source: str | None, given: dict[str, Any]) -> DatasetSpec:
    """The spec that the options ask for; options that were not given stay unset."""
    values = {"name": name} | {key: value for key, value in given.items() if value is not None}
    wanted = dict(_key_value(text) for text in filters) | ({"source": source} if source else {})
    return checked(DatasetSpec, values | ({"filters": wanted} if wanted else {}))


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput(f"--filter {text!r} has no '=': write it like source=gsm8k or meta.level=3")
    return key, value


def _wait(client: Client, dataset: Dataset) -> DatasetDetail:
    with waiting(f"building {dataset.name}@{dataset.version}"):
        return client.datasets.wait(dataset.dataset_id)


def _told_failure(dataset: Dataset) -> ExitCode:
    if dataset.state not in {"failed", "quarantined", "cancelled"}:
        return ExitCode.OK
    print_error(f"{dataset.name}@{dataset.version} could not be built: {dataset.failure or dataset.state}")
    return ExitCode.JOB_FAILED


def _show(dataset: Dataset) -> None:
    print_fields(
        [
            ("dataset", f"{dataset.name}@{dataset.version}"),
            ("id", dataset.dataset_id),
            ("state", dataset.state),
            ("digest", dataset.dataset_sha256),
            ("failure", dataset.failure),
        ]
    )
    if isinstance(dataset, DatasetDetail) and dataset.manifest:
        splits = dataset.manifest.splits.items()
        print_table(
            ("split", "rows", "prompts", "pairs"),
            [(name, counts.rows, counts.groups, counts.pairs) for name, counts in splits],
        )


def _show_row(row: PreviewRow) -> None:
    print_text(f"{row.split} {row.row_id}", style="bold")
    text = Text()
    for segment in row.segments:
        text.append(printable(str(segment["text"])), style="green" if segment["trained"] else "")
    out().print(text, soft_wrap=True)
    print_text()


def _write(chunks: Iterator[bytes], output: Path) -> int:
    size_bytes = 0
    with ExitStack() as stack:
        sink = sys.stdout.buffer if output == STDOUT else stack.enter_context(placed_file(output))
        progress = stack.enter_context(byte_progress(output.name, None)) if output != STDOUT else None
        for chunk in chunks:
            sink.write(chunk)
            size_bytes += len(chunk)
            if progress:
                progress(len(chunk))
    return size_bytes
