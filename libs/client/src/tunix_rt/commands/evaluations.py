"""`tunix-rt evaluations`: list, show."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from tunix_rt.client import Client
from tunix_rt.commands.options import json_option, limit_option
from tunix_rt.console import percent, print_fields, print_json, print_table, shortened
from tunix_rt.errors import ClientError
from tunix_rt.resources.evaluations import Outcome
from tunix_rt.server import connect
from tunix_rt.types import EvaluationDetail, Item, Score

LATEST = "latest"


@click.group()
def evaluations() -> None:
    """Look at what models answered, and at the verdicts.

    EVALUATION is an id, or `latest` for the newest one.
    """


@evaluations.command("list")
@limit_option
@json_option
def list_(limit: int, *, as_json: bool) -> None:
    """List evaluations, newest first.

    \b
    Example:
      tunix-rt evaluations list
    """
    with connect() as client:
        found = list(client.evaluations.list(limit=limit))
    if as_json:
        print_json(found)
        return
    print_table(
        ("evaluation", "run", "verdict", "accuracy", "judged", "judge", "created"),
        [
            (
                row.evaluation_id,
                row.run_id,
                row.decision,
                accuracy(row.score),
                row.score.scored,
                row.judge,
                row.created_at,
            )
            for row in found
        ],
    )


@evaluations.command()
@click.argument("evaluation")
@click.option(
    "--items",
    "outcome",
    type=click.Choice(("correct", "wrong", "unscored")),
    help="Also every answer with this judgement.",
)
@json_option
def show(evaluation: str, outcome: Outcome | None, *, as_json: bool) -> None:
    """Show an EVALUATION: scores, slices and the gate's verdict.

    \b
    Example:
      tunix-rt evaluations show latest --items wrong
    """
    with connect() as client:
        found = client.evaluations.get(_evaluation_id(client, evaluation))
        items = list(client.evaluations.items(found.evaluation_id, outcome=outcome)) if outcome else []
    if as_json:
        print_json(found.model_dump(mode="json") | ({"items": items} if outcome else {}))
        return
    _show(found)
    if outcome:
        _show_items(items)


def accuracy(score: Score) -> str:
    """Accuracy and its interval, as percentages."""
    if score.interval is None:
        return percent(score.accuracy)
    return f"{percent(score.accuracy)} [{percent(score.interval.low)}, {percent(score.interval.high)}]"


def _evaluation_id(client: Client, reference: str) -> str:
    if reference != LATEST:
        return reference
    newest = next(client.evaluations.list(limit=1), None)
    if newest is None:
        raise ClientError("there is no evaluation yet: `tunix-rt runs create` makes one")
    return newest.evaluation_id


def _show(found: EvaluationDetail) -> None:
    print_fields(
        [
            ("evaluation", found.evaluation_id),
            ("run", found.run_id),
            ("verdict", found.decision),
            ("reason", found.reason),
            ("accuracy", accuracy(found.score)),
            ("correct", f"{found.score.correct} of {found.score.scored} judged, {found.score.unscored} unscored"),
            ("judge", found.judge),
            *([("answered by", f"{found.endpoint.model} at {found.endpoint.url}")] if found.endpoint else []),
            ("items digest", found.eval_set_sha256),
            *_comparison(found.verdict.get("paired")),
        ]
    )
    slices = [
        (dimension, value, score.correct, score.scored, accuracy(score))
        for dimension, scores in found.slices.items()
        for value, score in scores.items()
    ]
    if slices:
        print_table(("slice", "value", "correct", "judged", "accuracy"), slices)


def _comparison(paired: Mapping[str, Any] | None) -> list[tuple[str, object]]:
    if paired is None:
        return []
    low, high = paired["interval"]["low"], paired["interval"]["high"]
    return [
        ("against baseline", f"{100 * paired['difference']:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"),
        ("gained, lost", f"{paired['only_candidate']}, {paired['only_baseline']} of {paired['n']}"),
    ]


def _show_items(items: Sequence[Item]) -> None:
    print_table(
        ("item", "prompt", "expected", "extracted", "reason"),
        [
            (
                item.item_id[:12],
                shortened(item.prompt),
                shortened(item.expected, 30),
                shortened(item.extracted or "-", 30),
                shortened(item.reason),
            )
            for item in items
        ],
    )
