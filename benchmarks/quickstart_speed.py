"""`make bench`: how fast the parts of the quickstart are on this machine. Asserts nothing; writes results.json."""

import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from measurement import RESULTS, Measurement, record, this_machine
from model_speed import measure_model
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table
from service_speed import DATASET, measure_service
from start_speed import measure_starts


def main() -> None:
    """Measure, show, write."""
    console = Console()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as home, console.status("measuring, about two minutes"):
        measurements = [*measure_model(), *measure_service(Path(home)), *measure_starts(Path(home), DATASET)]
    record(
        measurements,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=asdict(this_machine()),
        load_before=round(load_before, 2),
    )
    console.print(_table(measurements))
    console.print(" · ".join(f"{name} {value}" for name, value in asdict(this_machine()).items()))
    console.print(f"written to {RESULTS}")


def _table(measurements: Iterable[Measurement]) -> Table:
    measured, limit = Column("measured", justify="right"), Column("limit", justify="right")
    table = Table("what", measured, "unit", limit, "limit is", box=SIMPLE_HEAD)
    for row in measurements:
        table.add_row(row.subject, _number(row.value), row.unit, _number(row.limit, missing=""), row.limit_is)
    return table


def _number(value: float | None, missing: str = "not measured") -> str:
    """Three significant digits, thousands grouped."""
    if value is None:
        return missing
    return f"{float(f'{value:.3g}'):,g}" if abs(value) < 1e6 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
