"""What a benchmark says: a number, its unit, and the floor or ceiling that it can be read against."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

CPU_INFO = Path("/proc/cpuinfo")
RESULTS = Path(__file__).with_name("results.json")


@dataclass(frozen=True)
class Measurement:
    """One line of the table; without a value it was not measured. `limit` is in the same unit, `limit_is` names it."""

    subject: str
    unit: str
    value: float | None = None
    limit: float | None = None
    limit_is: str = ""


@dataclass(frozen=True)
class Machine:
    """Where the numbers come from."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    jax: str
    jaxlib: str


def this_machine() -> Machine:
    """The machine that runs this process; `cores` are those that the process may use."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages * page_bytes / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        jax=version("jax"),
        jaxlib=version("jaxlib"),
    )


def record(measured: Sequence[Measurement], **about: object) -> None:
    """Put the rows into results.json in place of those of the same subjects, and what is said about them all."""
    document = json.loads(RESULTS.read_text()) | about
    mine = {row.subject for row in measured}
    kept = [row for row in document["measurements"] if row["subject"] not in mine]
    document["measurements"] = kept + [asdict(row) for row in measured]
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")


def show(measured: Sequence[Measurement]) -> None:
    """Print a line for each."""
    for row in measured:
        limit = f" ({row.limit_is}: {row.limit:,.4g})" if row.limit is not None else ""
        print(f"{row.subject}: {'not measured' if row.value is None else f'{row.value:,.4g} {row.unit}'}{limit}")


def show_ratios(measured: Sequence[Measurement]) -> None:
    """Print how many times as fast ours, the limit, is as each peer, the value; a row without either is left out."""
    for row in measured:
        if row.value and row.limit:
            print(f"{row.subject}: ours is {row.limit / row.value:.2f} times as fast")


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    started_s = time.perf_counter()
    call()
    return time.perf_counter() - started_s


def median_seconds(call: Callable[[], object], times: int) -> float:
    """The median of several calls."""
    return median(seconds(call) for _ in range(times))


def _processor() -> str:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
