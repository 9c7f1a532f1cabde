"""What a benchmark says: a number, its unit, and the floor or ceiling that it can be read against."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

CPU_INFO = Path("/proc/cpuinfo")


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
