"""Dockerfiles as a list of instructions, and a build replayed without Docker."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
IGNORE = shutil.ignore_patterns("__pycache__", "*.egg-info", "dist")


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined."""

    word: str
    rest: str


@dataclass(frozen=True)
class Stage:
    """What follows one FROM."""

    image: str
    instructions: tuple[Instruction, ...]

    def all(self, word: str) -> list[str]:
        return [one.rest for one in self.instructions if one.word == word]

    def copied(self) -> list[str]:
        """What is copied from the build context."""
        lists = [rest.split()[:-1] for rest in self.all("COPY") if not rest.startswith("--from")]
        return [source for sources in lists for source in sources]


def stages(file: Path) -> list[Stage]:
    """The stages of a Dockerfile, the image's own last."""
    text = re.sub(r"(?m)^#.*\n", "", file.read_text()).replace("\\\n", " ")
    instructions = [Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]
    starts = [index for index, one in enumerate(instructions) if one.word == "FROM"]
    return [
        Stage(instructions[start].rest, tuple(instructions[start + 1 : end]))
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]


def replay(file: Path, context: Path, venv: Path) -> None:
    """Do in an empty folder what the build stage does: copy what it copies, run what it runs, into a venv elsewhere.

    Its cache mount becomes uv's own cache, its Python ours; bytecode is left out, which only costs time here. uv is the
    one that runs us, which may not be on the PATH.
    """
    build = next(stage for stage in stages(file) if stage.image.endswith(" AS build"))
    arguments = dict(rest.split("=") for rest in build.all("ARG"))
    environment = os.environ | arguments | {"UV_PROJECT_ENVIRONMENT": str(venv), "UV_PYTHON": sys.executable}
    if uv := os.environ.get("UV"):
        environment["PATH"] = f"{Path(uv).parent}{os.pathsep}{environment['PATH']}"
    for one in build.instructions:
        if one.word == "COPY" and not one.rest.startswith("--from"):
            copy(one.rest.split(), context)
        elif one.word == "RUN":
            command = re.sub(r"--mount=\S+\s*", "", one.rest)
            subprocess.run(["sh", "-euc", command], cwd=context, env=environment, check=True, capture_output=True)


def copy(paths: list[str], context: Path) -> None:
    """COPY, in the two forms that our Dockerfiles use: files into the work folder, and one folder to its place."""
    *sources, target = paths
    for source in sources:
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, context / target, ignore=IGNORE)
        else:
            shutil.copy(REPOSITORY / source, context / target)
