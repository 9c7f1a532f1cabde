"""`tunix-rt runs`: plan, create, import, list, show, watch, logs, trace, pause, resume, cancel."""

import sys
from typing import Any

import click

from tunix_rt.client import Client
from tunix_rt.commands.options import checked, json_option, limit_option
from tunix_rt.commands.planning import plan_run
from tunix_rt.commands.runimport import import_
from tunix_rt.commands.runspec import whole_spec, whole_spec_options
from tunix_rt.commands.watch import show_outcome, watch_to_end
from tunix_rt.commands.waterfall import print_waterfall
from tunix_rt.console import note, print_fields, print_json, print_table, printable
from tunix_rt.errors import ClientError
from tunix_rt.exitcodes import ExitCode
from tunix_rt.server import connect, find_server
from tunix_rt.types import Run, RunDetail
from tunix_rt_common.specs import DEVICE_NAMES, DeviceName, PlanSpec

LATEST = "latest"


@click.group()
def runs() -> None:
    """Start, watch and cancel training runs.

    RUN is an id, or `latest` for the newest run.
    """


@runs.command()
@whole_spec_options
@click.option("--device", type=click.Choice(DEVICE_NAMES), help="Plan for this device; the trainer's own unless given.")
@click.option("--devices", type=int, help="How many of them there are.")
@click.option("--memory-gib", type=float, help="What arrays may take of the memory of each.")
@json_option
def plan(
    *, as_json: bool, device: DeviceName | None, devices: int | None, memory_gib: float | None, **given: Any
) -> ExitCode:
    """Tell what a run would need, and start nothing: parameters, memory, steps, tokens, dropped rows, time.

    Exit code 0 when the run fits the device, 1 when it does not: then the reason holds both numbers and the setting
    that would. It is worked out on a CPU, by a trainer that is free.

    \b
    Example:
      tunix-rt runs plan --dataset sums --base-model tiny --batch-size 256 --device nvidia-l4
    """
    target = {"device": device, "devices": devices, "memory_gib": memory_gib}
    wanted = {name: value for name, value in target.items() if value is not None}
    spec = checked(PlanSpec, whole_spec(given).model_dump(exclude_unset=True) | wanted)
    with find_server() as server, Client(server.url) as client:
        return plan_run(client, spec, as_json=as_json)


@runs.command()
@whole_spec_options
@click.option("--wait", is_flag=True, help="Watch the run to its end; the exit code is that of `runs watch`.")
@click.option("--dry-run", is_flag=True, help="Start nothing: `runs plan` with the same options.")
@json_option
def create(*, wait: bool, dry_run: bool, as_json: bool, **given: Any) -> ExitCode:
    """Start a run: train, judge, gate, register.

    What is not given is the server's to choose. Without a server, the run is watched to its end, since its workers
    end with this command.

    \b
    Example:
      tunix-rt runs create --dataset sums --base-model tiny --epochs 3 --wait
      tunix-rt runs create --spec run.json --seed 2
    """
    spec = whole_spec(given)
    with find_server() as server, Client(server.url) as client:
        if dry_run:
            return plan_run(client, PlanSpec.model_validate(spec.model_dump(exclude_unset=True)), as_json=as_json)
        run = client.runs.create(spec)
        if server.own and not wait:
            note("no server runs here, so this command does the work and waits for its end")
        if wait or server.own:
            return watch_to_end(client, run.run_id, own_world=server.own, as_json=as_json)
    print_json(run) if as_json else _show_accepted(run)
    return ExitCode.OK


runs.add_command(import_)


@runs.command("list")
@click.option("--state", help="Only runs in this state, such as running.")
@limit_option
@json_option
def list_(state: str | None, limit: int, *, as_json: bool) -> None:
    """List runs, newest first.

    \b
    Example:
      tunix-rt runs list --state failed
    """
    with connect() as client:
        found = list(client.runs.list(state=state, limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("run", "state", "stage", "progress", "dataset", "base model", "model", "created"),
        [
            (
                row.run_id,
                row.state,
                row.stage,
                _progress(row),
                row.dataset,
                row.base_model,
                row.model_name,
                row.created_at,
            )
            for row in found
        ],
    )


@runs.command()
@click.argument("run")
@json_option
def show(run: str, *, as_json: bool) -> None:
    """Show a RUN: its stages, checkpoints and outcome.

    \b
    Example:
      tunix-rt runs show latest
    """
    with connect() as client:
        found = client.runs.get(run_id(client, run))
    print_json(found) if as_json else _show(found)


@runs.command()
@click.argument("run")
@json_option
def watch(run: str, *, as_json: bool) -> ExitCode:
    """Watch a RUN to its end.

    Exit code 0 when it succeeded, 1 when it failed, 4 when it was cancelled. Ctrl-C stops watching, not the run.

    \b
    Example:
      tunix-rt runs watch latest
    """
    with find_server() as server, Client(server.url) as client:
        return watch_to_end(client, run_id(client, run), own_world=server.own, as_json=as_json)


@runs.command()
@click.argument("run")
@click.option("--follow", is_flag=True, help="Go on until the run has ended.")
@json_option
def logs(run: str, *, follow: bool, as_json: bool) -> None:
    """Print what the stages of a RUN wrote.

    \b
    Example:
      tunix-rt runs logs latest --follow
    """
    with connect() as client:
        found = client.runs.logs(run_id(client, run), follow=follow)
        if as_json:
            print_json(list(found))
            return
        for log in found:
            sys.stdout.write(printable(log.text.replace("\r\n", "\n").replace("\r", "\n")))
            sys.stdout.flush()


@runs.command()
@click.argument("run")
@json_option
def trace(run: str, *, as_json: bool) -> None:
    """Draw where the time of a RUN went, over all services and attempts.

    \b
    Example:
      tunix-rt runs trace latest
    """
    with connect() as client:
        found = client.runs.trace(run_id(client, run))
    if as_json:
        print_json(found)
    elif found.spans:
        print_waterfall(found)
    else:
        note("nothing was traced of this run")


@runs.command()
@click.argument("run")
@json_option
def cancel(run: str, *, as_json: bool) -> None:
    """Ask a RUN to end; it keeps its last good checkpoint.

    Asking twice, or too late, changes nothing.

    \b
    Example:
      tunix-rt runs cancel latest
    """
    with connect() as client:
        found = client.runs.cancel(run_id(client, run))
    if as_json:
        print_json(found)
    else:
        note(f"run {found.run_id} is {found.state}" + ("" if found.finished else " and was asked to end"))


@runs.command()
@click.argument("run")
@json_option
def pause(run: str, *, as_json: bool) -> None:
    """Ask a RUN to keep a checkpoint and wait until it is resumed.

    \b
    Example:
      tunix-rt runs pause latest
    """
    with connect() as client:
        found = client.runs.pause(run_id(client, run))
    if as_json:
        print_json(found)
    else:
        note(f"run {found.run_id} is {found.state}" + (" and was asked to pause" if found.state == "running" else ""))


@runs.command()
@click.argument("run")
@json_option
def resume(run: str, *, as_json: bool) -> None:
    """Let a paused RUN go on from its last checkpoint.

    \b
    Example:
      tunix-rt runs resume latest
    """
    with connect() as client:
        found = client.runs.resume(run_id(client, run))
    print_json(found) if as_json else note(f"run {found.run_id} is {found.state}")


def run_id(client: Client, reference: str) -> str:
    """The id that a user means."""
    if reference != LATEST:
        return reference
    newest = next(client.runs.list(limit=1), None)
    if newest is None:
        raise ClientError("there is no run yet: start one with `tunix-rt runs create`")
    return newest.run_id


def _show_accepted(run: Run) -> None:
    print_fields([("run", run.run_id), ("state", run.state), ("dataset", run.dataset), ("base model", run.base_model)])
    note(f"`tunix-rt runs watch {run.run_id}` shows how it goes")


def _show(run: RunDetail) -> None:
    show_outcome(run)
    print_fields(
        [
            ("dataset", run.dataset),
            ("base model", run.base_model),
            ("imported from bundle", run.bundle_sha256),
            ("failure", run.failure),
            ("created", run.created_at),
            ("started", run.started_at),
            ("finished", run.finished_at),
        ]
    )
    print_table(
        ("stage", "state", "attempt", "step", "started", "finished", "failure"),
        [
            (job.kind, job.state, job.attempt, job.step, job.started_at, job.finished_at, job.failure)
            for job in run.jobs
        ],
    )
    if run.checkpoints:
        print_table(
            ("checkpoint at step", "bytes", "created"),
            [(checkpoint.step, checkpoint.size_bytes, checkpoint.created_at) for checkpoint in run.checkpoints],
        )


def _progress(run: Run) -> str:
    """Steps of training, or items of judging, that are done."""
    return f"{run.step}/{run.total_steps}" if run.total_steps else str(run.step)
