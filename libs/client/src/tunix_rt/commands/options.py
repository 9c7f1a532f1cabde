"""Options that several subcommands have, and what they share in reading them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

from tunix_rt_common.errors import InvalidInput

Command = TypeVar("Command", bound=Callable[..., Any])
SpecT = TypeVar("SpecT", bound=BaseModel)

STDOUT = Path("-")

json_option: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)
limit_option: Callable[[Command], Command] = click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many to show, newest first."
)
split_option: Callable[[Command], Command] = click.option(
    "--split", type=click.Choice(("train", "validation", "test")), help="One split only."
)


def checked(kind: type[SpecT], values: Mapping[str, Any]) -> SpecT:
    """The spec with these values; what is not in them stays unset, and is the server's to choose.

    Raises:
        InvalidInput: a value does not fit; the message names its field.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        told = [": ".join(filter(None, (".".join(map(str, row["loc"])), row["msg"]))) for row in found]
        raise InvalidInput("; ".join(told)) from None


def refuse_json_beside_stdout(target: Path | None, *, as_json: bool) -> None:
    """Two documents cannot share stdout."""
    if as_json and target == STDOUT:
        raise click.UsageError("--json and the rows cannot both go to stdout: write the rows to a file with --output.")
