"""docker-compose.yml as Compose reads it: merged, and with the variables of an .env file put in."""

import re
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
FILE = REPOSITORY / "docker-compose.yml"
EXAMPLE = DEPLOY / "compose" / ".env.example"
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?P<how>:[-?])(?P<word>(?:[^{}])*)\}")


def read(file: Path = FILE) -> dict[str, Any]:
    """A compose file with its anchors resolved and its variables as they are written."""
    document = yaml.safe_load(file.read_text())
    assert isinstance(document, dict)
    return document


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    return dict(read()["services"])


def example() -> dict[str, str]:
    """The example's variables; secrets are empty."""
    return {name: value or "" for name, value in dotenv_values(EXAMPLE, interpolate=False).items()}


def interpolated(value: str, variables: dict[str, str]) -> str:
    """A value with its variables put in, or their defaults."""

    def put_in(match: re.Match[str]) -> str:
        default = match["word"] if match["how"] == ":-" else ""
        return variables.get(match["name"]) or default

    return VARIABLE.sub(put_in, value)


def environment(service: dict[str, Any], variables: dict[str, str]) -> dict[str, str]:
    """What a container of a service finds in its environment beside what its image says."""
    return {name: interpolated(value, variables) for name, value in service.get("environment", {}).items()}


def is_one_shot(service: dict[str, Any]) -> bool:
    """Whether a service does its work and leaves."""
    return service["restart"] == "no"


def is_ours(service: dict[str, Any]) -> bool:
    """Whether a service runs code of this repository."""
    return "dockerfile" in service.get("build", {})
