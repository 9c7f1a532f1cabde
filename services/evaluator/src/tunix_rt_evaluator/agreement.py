"""`tunix-rt judges`: the table of judges, and how well one agrees with labels that people gave.

Reads JSON Lines as a stream and imports nothing heavy, so it starts at once and takes files of any length.
"""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tunix_rt_evaluator.judges import JUDGES, JudgeFailed

CONFIDENCE = 0.95
SHOWN_DISAGREEMENTS = 50
UNUSABLE_INPUT = 2
_LABELS = {
    "true": True,
    "yes": True,
    "correct": True,
    "1": True,
    "false": False,
    "no": False,
    "wrong": False,
    "0": False,
}


class BadLine(ValueError):
    """A line that holds no usable row; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled prediction."""

    line: int
    prediction: str
    expected: str
    label: bool


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A row that judge and label see differently."""

    line: int
    judged: bool
    label: bool
    extracted: str | None
    expected: str
    reason: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that was left out, or a row that the judge could not decide."""

    line: int
    problem: str


@dataclass(slots=True)
class Agreement:
    """The running confusion table of judge against label, and every row that does not fit it."""

    both_correct: int = 0
    only_judge_correct: int = 0
    only_label_correct: int = 0
    both_wrong: int = 0
    disagreements: list[Disagreement] = field(default_factory=list)
    unscored: list[Problem] = field(default_factory=list)
    bad_lines: list[Problem] = field(default_factory=list)

    @property
    def n(self) -> int:
        """Rows that have a label and a judgement."""
        return self.both_correct + self.only_judge_correct + self.only_label_correct + self.both_wrong

    def count(self, *, judged: bool, label: bool) -> None:
        """Enter one row into the table."""
        if judged and label:
            self.both_correct += 1
        elif judged:
            self.only_judge_correct += 1
        elif label:
            self.only_label_correct += 1
        else:
            self.both_wrong += 1


def cohens_kappa(table: Agreement) -> tuple[float, float, float] | None:
    """Cohen's kappa with its asymptotic 95 % interval (Fleiss, Cohen & Everitt 1969, Psychol. Bull. 72:323).

    None where chance alone gives full agreement: no rows, or judge and labels both always the same.
    """
    cells = [[table.both_correct, table.only_judge_correct], [table.only_label_correct, table.both_wrong]]
    if table.n == 0:
        return None
    p = [[count / table.n for count in row] for row in cells]
    judge = [sum(row) for row in p]
    label = [p[0][k] + p[1][k] for k in (0, 1)]
    chance = sum(judge[k] * label[k] for k in (0, 1))
    if math.isclose(chance, 1.0):
        return None
    kappa = (p[0][0] + p[1][1] - chance) / (1 - chance)
    on = sum(p[k][k] * (1 - (judge[k] + label[k]) * (1 - kappa)) ** 2 for k in (0, 1))
    off = (1 - kappa) ** 2 * sum(p[i][1 - i] * (label[i] + judge[1 - i]) ** 2 for i in (0, 1))
    variance = (on + off - (kappa - chance * (1 - kappa)) ** 2) / (table.n * (1 - chance) ** 2)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * math.sqrt(max(0.0, variance))
    return kappa, max(-1.0, kappa - half), min(1.0, kappa + half)


def read_rows(file: BinaryIO, keys: tuple[str, str, str]) -> Iterator[Row | Problem]:
    """The rows of a JSON Lines file, one at a time; `keys` name prediction, expected answer and label."""
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield _row(number, line, keys)
            except BadLine as problem:
                yield Problem(number, str(problem))


def _row(number: int, line: bytes, keys: tuple[str, str, str]) -> Row:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise BadLine("is not JSON in UTF-8: write one JSON object per line") from None
    if not isinstance(record, dict):
        raise BadLine(f"holds a JSON {type(record).__name__}: write one JSON object per line")
    missing = [key for key in keys if key not in record]
    if missing:
        raise BadLine(f"has no {', '.join(map(repr, missing))}: its keys are {', '.join(map(repr, record)) or 'none'}")
    prediction, expected, label = keys
    return Row(
        number,
        _answer(record[prediction], prediction),
        _answer(record[expected], expected),
        _label(record[label], label),
    )


def _answer(value: object, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadLine(f"{key!r} is neither text nor a number")
    return str(value).encode("utf-8", "replace").decode()


def _label(value: object, key: str) -> bool:
    label = _LABELS.get(str(value).strip().casefold())
    if label is None:
        raise BadLine(f"{key!r} is not a yes-or-no label: use true or false")
    return label


def compare(rows: Iterator[Row | Problem], judge_name: str) -> Agreement:
    """Judge every row and count where judge and label agree."""
    judge, table = JUDGES[judge_name], Agreement()
    for row in rows:
        if isinstance(row, Problem):
            table.bad_lines.append(row)
            continue
        try:
            judgement = judge(row.prediction, row.expected)
        except JudgeFailed as failure:
            table.unscored.append(Problem(row.line, str(failure)))
            continue
        table.count(judged=judgement.correct, label=row.label)
        if judgement.correct != row.label:
            table.disagreements.append(
                Disagreement(
                    row.line, judgement.correct, row.label, judgement.extracted, row.expected, judgement.reason
                )
            )
    return table


def as_document(table: Agreement, judge_name: str) -> dict[str, Any]:
    """The whole result as JSON-ready values; kappa is null where it is undefined."""
    kappa = cohens_kappa(table)
    return {
        "judge": judge_name,
        "n": table.n,
        "agreement": (table.both_correct + table.both_wrong) / table.n,
        "kappa": kappa and {"value": kappa[0], "low": kappa[1], "high": kappa[2], "confidence": CONFIDENCE},
        "confusion": {
            "both_correct": table.both_correct,
            "only_judge_correct": table.only_judge_correct,
            "only_label_correct": table.only_label_correct,
            "both_wrong": table.both_wrong,
        },
        "disagreements": [asdict(row) for row in table.disagreements],
        "unscored": [asdict(row) for row in table.unscored],
        "bad_lines": [asdict(row) for row in table.bad_lines],
    }


def _show(document: dict[str, Any], console: Console) -> None:
    kappa, confusion = document["kappa"], document["confusion"]
    known = f"{kappa['value']:.4f} (95 % interval {kappa['low']:.4f} to {kappa['high']:.4f})" if kappa else "undefined"
    console.print(f"{document['judge']}: {document['n']} rows, agreement {document['agreement']:.2%}, kappa {known}")
    console.print(f"unscored {len(document['unscored'])}, bad lines {len(document['bad_lines'])}")
    table = Table("", "label: correct", "label: wrong", title="judge against label")
    table.add_row("judge: correct", str(confusion["both_correct"]), str(confusion["only_judge_correct"]))
    table.add_row("judge: wrong", str(confusion["only_label_correct"]), str(confusion["both_wrong"]))
    console.print(table)
    if document["disagreements"]:
        console.print(_disagreements(document["disagreements"]))


def _disagreements(rows: list[dict[str, Any]]) -> Table:
    left_out = len(rows) - SHOWN_DISAGREEMENTS
    caption = f"{left_out} more: --json lists them all" if left_out > 0 else None
    table = Table("line", "label", "why the judge disagrees", title=f"{len(rows)} disagreements", caption=caption)
    for row in rows[:SHOWN_DISAGREEMENTS]:
        label = "correct" if row["label"] else "wrong"
        table.add_row(str(row["line"]), label, Text(row["reason"]))
    return table


@click.group()
def judges() -> None:
    """The judges that say whether an answer is right, and how far to trust them."""


@judges.command("list")
def list_judges() -> None:
    """Name every judge and what it does."""
    for name, judge in JUDGES.items():
        summary = (judge.__doc__ or "").strip().splitlines()[0]
        click.echo(f"{name}  {summary}")


@judges.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path))
@click.option("--judge", "judge_name", type=click.Choice(list(JUDGES)), required=True, help="Who judges.")
@click.option("--prediction", required=True, metavar="KEY", help="Key of the model's answer.")
@click.option("--expected", required=True, metavar="KEY", help="Key of the expected answer.")
@click.option("--label", required=True, metavar="KEY", help="Key of the human label: true where the answer is right.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with everything in it.")
def agreement(*, file: Path, judge_name: str, prediction: str, expected: str, label: str, as_json: bool) -> None:
    """Compare a judge with human labels, row by row.

    FILE holds one JSON object per line. Lines that cannot be used are reported by number and left out; the exit code
    is 2 where none can be used.
    """
    with file.open("rb") as lines:
        table = compare(read_rows(lines, (prediction, expected, label)), judge_name)
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    for problem in table.bad_lines:
        errors.print(f"line {problem.line}: {problem.problem}")
    if table.n == 0:
        errors.print(f"{file}: no line could be compared: check the file and the keys")
        sys.exit(UNUSABLE_INPUT)
    document = as_document(table, judge_name)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(document, Console(highlight=False, markup=False, soft_wrap=True))
