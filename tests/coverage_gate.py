"""Fails when too little was covered: `python tests/coverage_gate.py coverage.json`."""

import json
import sys
from pathlib import Path

LEAST = {"lines": 85.0, "branches": 75.0}


def main(report: Path) -> int:
    """Print what was covered; the exit status says whether it is enough."""
    totals = json.loads(report.read_text())["totals"]
    covered = {
        "lines": 100 * totals["covered_lines"] / totals["num_statements"],
        "branches": 100 * totals["covered_branches"] / totals["num_branches"],
    }
    short = [name for name, percent in covered.items() if percent < LEAST[name]]
    for name, percent in covered.items():
        sys.stdout.write(f"covered {name}: {percent:.1f} %, at least {LEAST[name]:.0f} %\n")
    if short:
        sys.stdout.write(f"too few {' and '.join(short)}: test what is new, or delete what is dead\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
