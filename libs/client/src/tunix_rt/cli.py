"""The `tunix-rt` command: which subcommands there are, and how every failure is told.

Subcommands are imported when they are invoked, so that `tunix-rt --help` is quick.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import click

from tunix_rt.errors import ApiError, ClientError, DamagedDownload, NotInstalled, ServerAway, UnexpectedAnswer
from tunix_rt.exitcodes import ExitCode
from tunix_rt_common.errors import TunixError


@dataclass(frozen=True)
class Subcommand:
    """Where a subcommand is, and its line of help; without a module it comes from the entry point of its name."""

    help: str
    module: str | None = None


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "quickstart": Subcommand("See the whole pipeline on this machine, from traces to a promoted model."),
    "up": Subcommand("Run API, workers and pages on this machine."),
    "traces": Subcommand("Import, generate and list reasoning traces.", "tunix_rt.commands.traces"),
    "datasets": Subcommand("Build, look at and export dataset versions.", "tunix_rt.commands.datasets"),
    "runs": Subcommand("Start, watch and cancel training runs.", "tunix_rt.commands.runs"),
    "evaluations": Subcommand("Look at what models answered, and at the verdicts.", "tunix_rt.commands.evaluations"),
    "leaderboard": Subcommand("Rank registered model versions.", "tunix_rt.commands.leaderboard"),
    "models": Subcommand("List, download and promote registered models.", "tunix_rt.commands.models"),
    "judges": Subcommand("Try and calibrate judges."),
}


class LazyGroup(click.Group):
    """Imports a subcommand when it is invoked, and not for listing it."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names in the order of the table."""
        return list(SUBCOMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand itself."""
        if cmd_name not in SUBCOMMANDS:
            return None
        module = SUBCOMMANDS[cmd_name].module
        if module is None:
            return _from_entry_point(cmd_name)
        command: click.Command = getattr(import_module(module), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Invoke the subcommand; a closed pipe is ours to answer, before click ends the process with 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return _pipe_closed()

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, subcommand.help) for name, subcommand in SUBCOMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tunix-rt", message="tunix-rt %(version)s")
def cli() -> None:
    """Turn reasoning traces into better models, with proof that they are better.

    The server is the one that TUNIX_RT_API_URL names, or the `tunix-rt up` that runs on this machine. Without either,
    a command opens the files of this machine itself.

    \b
    Example:
      tunix-rt traces import gsm8k.jsonl
      tunix-rt datasets build gsm8k --source gsm8k
      tunix-rt runs create --dataset gsm8k --base-model tiny --wait
    """


def main() -> None:
    """Run the command and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command; the exit code. Failures are told on stderr, in one line where one is enough."""
    try:
        code = cli.main(list(arguments), prog_name="tunix-rt", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        return _misused(error)
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return _pipe_closed()
    except (ClientError, TunixError, OSError) as error:
        return _told(error)
    return int(code or ExitCode.OK)


def _from_entry_point(name: str) -> click.Command:
    from importlib.metadata import entry_points

    found = list(entry_points(group="tunix_rt.commands", name=name))
    if found:
        command: click.Command = found[0].load()
        return command
    return _not_installed(name)


def _not_installed(name: str) -> click.Command:
    """A command that takes anything, help included, and says what is missing."""

    @click.command(
        name, add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
    )
    def stand_in() -> None:
        raise NotInstalled(f"`tunix-rt {name}` is not installed: `pip install tunix-rt-embedded`")

    return stand_in


def _misused(error: click.ClickException) -> ExitCode:
    """Tell what is wrong with the command line; a bare group shows its help."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return ExitCode.USAGE
    from tunix_rt.console import print_error

    context = error.ctx if isinstance(error, click.UsageError) else None
    print_error(error.format_message() + (f" See `{context.command_path} --help`." if context else ""))
    return ExitCode.USAGE


def _told(error: ClientError | TunixError | OSError) -> ExitCode:
    """Tell the error; the exit code that it stands for."""
    from tunix_rt.console import print_error

    fields = [f"{row.field}: {row.message}" for row in error.errors] if isinstance(error, ApiError) else []
    message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    print_error(message, fields)
    if isinstance(error, ServerAway | UnexpectedAnswer) or (isinstance(error, ApiError) and error.status >= 500):
        return ExitCode.SERVER_AWAY
    return ExitCode.JOB_FAILED if isinstance(error, DamagedDownload) else ExitCode.USAGE


def _pipe_closed() -> ExitCode:
    """Let nothing more be written to the closed pipe, not even by the interpreter at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.BROKEN_PIPE
