"""`tunix-rt up` and `tunix-rt quickstart`: found by the client through entry points."""

import sys

import click
from rich.console import Console

from tunix_rt.server import running_server
from tunix_rt_embedded.world import embedded_settings, run_server

PORT_TAKEN = 5
ALREADY_UP = 2


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on.  [default: 8321]")
def up(host: str | None, port: int | None) -> None:
    """Serve API, pages and workers on this machine, until Ctrl-C.

    Example: tunix-rt up --port 8321
    """
    console = Console(stderr=True)
    settings = embedded_settings()
    if url := running_server(settings.home_dir):
        console.print(f"[red]Tunix RT is up already[/] at {url}: use that one, or set TUNIX_RT_HOME for another")
        sys.exit(ALREADY_UP)
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update=given)

    def ready(address: str) -> None:
        console.print(f"[bold green]Tunix RT is up[/] at [link={address}]{address}[/]  (files in {settings.home_dir})")
        console.print("Ctrl-C stops it; what runs keeps its last checkpoint and continues at the next start.")

    try:
        run_server(settings, ready)
    except OSError as error:
        console.print(
            f"[red]cannot listen on {settings.host}:{settings.port} ({error.strerror})[/]: choose another --port"
        )
        sys.exit(PORT_TAKEN)


@click.command()
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=7, show_default=True, help="Seed of everything.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout; progress goes to stderr.")
def quickstart(seed: int, *, as_json: bool) -> None:
    """Turn synthetic reasoning traces into a better model, and prove that it is better.

    Takes a few minutes of two cores. Example: tunix-rt quickstart --seed 7
    """
    from tunix_rt_embedded.quickstart import run_quickstart

    sys.exit(run_quickstart(seed, as_json=as_json))
