"""Contenders that take turns: each a process with an environment of its own, idle while the others run.

Round n of each is measured before round n + 1 of any, so a machine that slows down slows them all.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEERS = Path(__file__).with_name("peers")
ENVIRONMENTS = Path(__file__).parents[1] / ".tools" / "peers"
OURS = "ours"
DATA = Path(os.environ.get("TUNIX_RT_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Contender:
    """A script in `benchmarks/peers`, and the pinned environment that it runs in; ours is this one."""

    name: str
    script: str
    environment: str = OURS


def python_of(environment: str) -> Path:
    """The interpreter of a pinned environment, which is installed where it is missing or out of date."""
    if environment == OURS:
        return Path(sys.executable)
    pins, folder = PEERS / "requirements" / f"{environment}.txt", ENVIRONMENTS / environment
    installed, python = folder / "installed.txt", folder / "bin" / "python"
    if not installed.exists() or installed.read_bytes() != pins.read_bytes():
        print(f"installing {environment} into {folder}", file=sys.stderr)
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, folder], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, "-r", pins], check=True)
        installed.write_bytes(pins.read_bytes())
    return python


class Worker:
    """A contender's process."""

    def __init__(self, contender: Contender, arguments: Sequence[str], log: Path) -> None:
        command = [python_of(contender.environment), PEERS / contender.script, *arguments]
        self._contender, self._log = contender, log
        with log.open("w") as stderr:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def round(self, number: int) -> dict[str, Any]:
        """Let it do one round; what it measured."""
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(f"{number}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            told = "".join(self._log.read_text().splitlines(keepends=True)[-20:])
            raise RuntimeError(f"{self._contender.name} ended before round {number}:\n{told}")
        measured: dict[str, Any] = json.loads(line)
        return measured


def take_turns(
    contenders: Sequence[Contender], arguments: Sequence[str], rounds: int, logs: Path
) -> Mapping[str, list[dict[str, Any]]]:
    """What each contender measured in each round. Round 0 warms up (imports, compiling) and is left out."""
    for contender in contenders:
        python_of(contender.environment)
    measured: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in contenders}
    with ExitStack() as running:
        workers = {c.name: running.enter_context(Worker(c, arguments, logs / f"{c.script}.log")) for c in contenders}
        for name, worker in workers.items():
            print(f"{name} starts", file=sys.stderr)
            worker.round(0)
        for number in range(1, rounds + 1):
            for name, worker in workers.items():
                measured[name].append(worker.round(number))
                print(f"round {number} of {rounds}: {name}", file=sys.stderr)
    return measured
