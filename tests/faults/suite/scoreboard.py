"""What each scenario came to: runs, how many were lost, doubled or changed, and how long recovery took."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HEADINGS = ("scenario", "runs", "lost", "doubled", "changed", "recovered in s")


@dataclass(frozen=True)
class Score:
    """One scenario.

    `lost`: accepted and not ended as it should. `doubled`: something of it was completed twice. `changed`: ended with
    other weights than undisturbed. `recovered_s`: from the fault's end until all runs of the scenario had ended.
    """

    scenario: str
    runs: int
    lost: int
    doubled: int
    changed: int
    recovered_s: float | None

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of the headings."""
        recovered = "" if self.recovered_s is None else f"{self.recovered_s:.1f}"
        return self.scenario, str(self.runs), str(self.lost), str(self.doubled), str(self.changed), recovered


def total(scores: Sequence[Score]) -> Score:
    """All scenarios together; the slowest recovery."""
    slowest = max((score.recovered_s for score in scores if score.recovered_s is not None), default=None)
    return Score(
        "total",
        *(sum(getattr(score, name) for score in scores) for name in ("runs", "lost", "doubled", "changed")),
        recovered_s=slowest,
    )


def table(scores: Sequence[Score]) -> list[str]:
    """The lines of a Markdown table, which reads well as it is, too."""
    rows = [HEADINGS, *(score.cells() for score in [*scores, total(scores)])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [_line(row, widths) for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def write(scores: Sequence[Score], file: Path) -> None:
    """As JSON, or as Markdown where the file is called so."""
    if file.suffix == ".md":
        file.write_text("\n".join(table(scores)) + "\n")
    else:
        file.write_text(json.dumps([asdict(score) for score in [*scores, total(scores)]], indent=2) + "\n")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    return "| " + " | ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]) + " |"
