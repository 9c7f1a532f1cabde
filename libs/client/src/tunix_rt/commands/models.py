"""`tunix-rt models`: list, versions, pull, promote."""

from pathlib import Path

import click

from tunix_rt.client import Client
from tunix_rt.commands.options import json_option
from tunix_rt.console import byte_progress, note, print_json, print_table
from tunix_rt.server import connect
from tunix_rt_common.errors import InvalidInput

NOWHERE = 0


@click.group()
def models() -> None:
    """List, download and promote registered models."""


@models.command("list")
@json_option
def list_(*, as_json: bool) -> None:
    """List registered models.

    \b
    Example:
      tunix-rt models list
    """
    with connect() as client:
        found = client.models.list()
    if as_json:
        print_json(found)
        return
    print_table(
        ("model", "latest version", "aliases"),
        [
            (row.name, row.latest_version, ", ".join(f"{alias} → {version}" for alias, version in row.aliases.items()))
            for row in found
        ],
    )


@models.command()
@click.argument("name")
@json_option
def versions(name: str, *, as_json: bool) -> None:
    """List the versions of model NAME, newest first.

    \b
    Example:
      tunix-rt models versions sums
    """
    with connect() as client:
        found = tuple(client.models.versions(name))
    if as_json:
        print_json(found)
        return
    print_table(
        ("version", "aliases", "verdict", "bytes", "run", "created"),
        [
            (row.version, ", ".join(row.aliases), row.decision, row.size_bytes, row.run_id, row.created_at)
            for row in found
        ],
    )


@models.command()
@click.argument("reference", metavar="NAME@ALIAS_OR_VERSION")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace DIR, whatever is in it.")
@json_option
def pull(reference: str, folder: Path, *, force: bool, as_json: bool) -> None:
    """Download a model version into DIR, every file checked against its hash.

    DIR is there in whole or not at all.

    \b
    Example:
      tunix-rt models pull sums@champion ./sums
    """
    name, which = _name_and_which(reference)
    with connect() as client:
        version = client.models.version(name, which)
        with byte_progress(f"{version.name}@{version.version}", version.size_bytes) as progress:
            client.models.pull(version, folder, replace=force, progress=progress)
    if as_json:
        print_json({"folder": str(folder.absolute()), "version": version})
    else:
        note(f"{version.name}@{version.version}: {len(version.files)} files in {folder}")


@models.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--alias", default="champion", show_default=True, help="The alias to move.")
@click.option(
    "--expected-version",
    type=click.IntRange(min=NOWHERE),
    help="Where it points now, 0 for nowhere; looked up unless given.",
)
@json_option
def promote(name: str, version: int, alias: str, expected_version: int | None, *, as_json: bool) -> None:
    """Point an alias of model NAME to VERSION.

    The gate has to allow it: VERSION needs a GO against the version that holds the alias now, or has held it before.

    \b
    Example:
      tunix-rt models promote sums 3
    """
    with connect() as client:
        now = _held(client, name, alias) if expected_version is None else expected_version or None
        moved = client.models.promote(name, version, alias=alias, expected_version=now)
    if as_json:
        print_json(moved)
    else:
        note(f"{moved.name}@{moved.alias} is version {moved.version}" + (f", was {now}" if now else ""))


def _held(client: Client, name: str, alias: str) -> int | None:
    return client.models.get(name).aliases.get(alias)


def _name_and_which(reference: str) -> tuple[str, str]:
    name, at, which = reference.rpartition("@")
    if not at or not name or not which:
        raise InvalidInput(f"{reference!r} names no version: write NAME@ALIAS or NAME@VERSION, such as sums@champion")
    return name, which
