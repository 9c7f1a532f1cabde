import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path

import click
import pytest

from tunix_rt import cli
from tunix_rt.exitcodes import ExitCode

MANUAL = Path(__file__).parents[3] / "docs" / "cli.md"
HEAVY = (
    *("httpx2", "opentelemetry", "prometheus_client", "pydantic", "rich"),
    *("tunix_rt.client", "tunix_rt.commands", "tunix_rt_common.specs"),
)


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    """Every subcommand of this package that does something, with its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        if group is cli.cli and cli.SUBCOMMANDS[name].module is None:
            continue
        found = group.get_command(context, name)
        assert found
        if isinstance(found, click.Group):
            yield from commands(found, *path, name)
        else:
            yield " ".join((*path, name)), found


COMMANDS = dict(commands(cli.cli))


def flags(name: str) -> list[str]:
    return [flag for option in COMMANDS[name].params for flag in option.opts if flag.startswith("--")]


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)


def test_help_imports_nothing_heavy():
    program = "import sys\nfrom tunix_rt.cli import run\nrun(['--help'])\nprint(*sys.modules, file=sys.stderr)"
    finished = python(program)
    assert "leaderboard" in finished.stdout
    assert set(HEAVY).isdisjoint(finished.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_json(name):
    command = COMMANDS[name]
    assert f"tunix-rt {name}" in (command.help or "").partition("Example:")[2]
    assert "--json" in [flag for option in command.params for flag in option.opts]


@pytest.mark.parametrize("name", COMMANDS)
def test_manual_knows_every_command_and_its_options(name):
    """A section may refer to the options of another command."""
    [section] = re.findall(rf"^###.*`tunix-rt {name}\b(.*?)(?=^#)", MANUAL.read_text(), re.MULTILINE | re.DOTALL)
    others = re.findall(r"options of `([a-z ]+)`", section)
    elsewhere = {"--json", *chain.from_iterable(map(flags, others))}
    assert [flag for flag in flags(name) if flag not in elsewhere and f"`{flag}" not in section] == []


@pytest.mark.parametrize("code", ExitCode)
def test_manual_lists_every_exit_code(code):
    assert f"| {code.value} |" in MANUAL.read_text()


def test_dead_server_ends_with_5_and_one_red_line(unused_url, monkeypatch, capsys):
    monkeypatch.setenv("TUNIX_RT_API_URL", unused_url)
    assert cli.run(["models", "list"]) == ExitCode.SERVER_AWAY
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: no answer from {unused_url}")
    assert "tunix-rt up" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["nonsense"], ["models", "list", "--nonsense"], ["models", "versions"]])
def test_misuse_ends_with_2_and_names_the_help(arguments, capsys):
    assert cli.run(arguments) == ExitCode.USAGE
    assert "--help`" in capsys.readouterr().err


def test_group_without_a_command_shows_its_help(capsys):
    assert cli.run(["models"]) == ExitCode.USAGE
    assert "promote" in capsys.readouterr().err


def test_version_is_told(capsys):
    assert cli.run(["--version"]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("tunix-rt ")


@pytest.mark.parametrize("name", [name for name, found in cli.SUBCOMMANDS.items() if found.module is None])
def test_missing_part_is_told_with_its_install_command(name, capsys):
    if entry_points(group="tunix_rt.commands", name=name):
        pytest.skip(f"{name} is installed here")
    assert cli.run([name, "--port", "1", "extra"]) == ExitCode.USAGE
    assert "pip install tunix-rt-embedded" in capsys.readouterr().err


def test_installed_part_is_found_by_its_entry_point(tmp_path, monkeypatch, capsys):
    info = tmp_path / "pretended_part-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended-part\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tunix_rt.commands]\nup = pretended_part:up\n")
    (tmp_path / "pretended_part.py").write_text(
        "import click\n@click.command()\n@click.option('--port')\ndef up(port):\n    click.echo(f'up at {port}')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.run(["up", "--port", "1"]) == ExitCode.OK
    assert capsys.readouterr().out == "up at 1\n"


def test_file_that_cannot_be_written_is_named_without_a_trace_back(tmp_path, capsys):
    (tmp_path / "taken").touch()
    target = str(tmp_path / "taken" / "sums.jsonl")
    assert cli.run(["traces", "generate", "arithmetic", "--count", "1", "--output", target]) == ExitCode.USAGE
    assert "taken" in capsys.readouterr().err
