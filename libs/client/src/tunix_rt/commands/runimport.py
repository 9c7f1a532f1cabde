"""`tunix-rt runs import`: take in what was trained without a platform."""

from pathlib import Path

import click

from tunix_rt.client import Client
from tunix_rt.commands.options import json_option
from tunix_rt.commands.watch import watch_to_end
from tunix_rt.console import byte_progress
from tunix_rt.exitcodes import ExitCode
from tunix_rt.server import find_server


@click.command("import")
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def import_(bundle: Path, *, as_json: bool) -> ExitCode:
    """Take in the run that `python -m tunix_rt_trainer.offline` left in folder BUNDLE.

    Every file is checked before anything is written. The platform judges the answers in the bundle again, or asks the
    model where there are none, compares with its own champion, and registers a version; the exit code is that of
    `runs watch`. The same bundle twice is the same run.

    \b
    Example:
      tunix-rt runs import bundle/
    """
    with find_server() as server, Client(server.url) as client:
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        with byte_progress(bundle.name, size) as progress:
            run = client.imports.bundle(bundle, progress=progress)
        return watch_to_end(client, run.run_id, own_world=server.own, as_json=as_json)
