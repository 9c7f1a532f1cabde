"""`tunix-rt leaderboard`."""

from collections.abc import Sequence

import click

from tunix_rt.commands.evaluations import accuracy
from tunix_rt.commands.options import json_option
from tunix_rt.console import note, print_json, print_table
from tunix_rt.server import connect
from tunix_rt.types import LeaderboardRow


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many to show, best first."
)
@json_option
def leaderboard(limit: int, *, as_json: bool) -> None:
    """Rank registered model versions by accuracy, each with its confidence interval.

    \b
    Example:
      tunix-rt leaderboard --limit 5
    """
    with connect() as client:
        rows = client.evaluations.leaderboard(limit=limit)
    print_json(rows) if as_json else show_leaderboard(rows)


def show_leaderboard(rows: Sequence[LeaderboardRow]) -> None:
    """The ranking as a table, with a warning where its rows are not comparable."""
    print_table(
        ("rank", "model", "aliases", "accuracy", "judged", "verdict", "items", "run"),
        [
            (
                row.rank,
                f"{row.model}@{row.version}",
                ", ".join(row.aliases),
                accuracy(row.score),
                row.score.scored,
                row.decision,
                row.eval_set_sha256[:12],
                row.run_id,
            )
            for row in rows
        ],
    )
    if len({row.eval_set_sha256 for row in rows}) > 1:
        note("rows with different items were asked different questions: compare only those with the same")
