"""How long things take to start: the command, and the trainer's child until its first step."""

import subprocess
import sys
import time
from pathlib import Path

from measurement import Measurement, median_seconds, seconds

from tunix_rt_api.deps import Services
from tunix_rt_api.runs.service import accept_run
from tunix_rt_common import pipeline
from tunix_rt_common.childprocess import ChildProcess
from tunix_rt_common.db.models import JobRecord
from tunix_rt_common.db.session import Database, open_database
from tunix_rt_common.jobreport import AnyLine, JobReport, Progress
from tunix_rt_common.pipeline import Claim
from tunix_rt_common.settings import Settings
from tunix_rt_common.specs import RunSpec, SftSpec
from tunix_rt_common.storage import open_store

COMMAND = Path(sys.executable).with_name("tunix-rt")
STARTS = 15
STEPS = 100
BARE_JAX = "import jax; jax.numpy.ones(8).sum().block_until_ready()"


def measure_starts(home: Path, dataset: str) -> list[Measurement]:
    """Starts, with all files in the page cache; `home` holds the built dataset."""
    bare_ms = 1e3 * median_seconds(lambda: _run(sys.executable, "-c", "pass"), STARTS)
    help_ms = 1e3 * median_seconds(lambda: _run(COMMAND, "--help"), STARTS)
    jax_s = seconds(lambda: _run(sys.executable, "-c", BARE_JAX))
    first_s, second_s = (seconds_to_first_step(home, dataset) for _ in range(2))
    return [
        Measurement("tunix-rt --help", "ms", help_ms, bare_ms, "bare Python"),
        Measurement("trainer to its first step", "s", first_s, jax_s, "bare JAX"),
        Measurement("trainer, second start", "s", second_s, jax_s, "bare JAX"),
    ]


class FirstStep(JobReport):
    """A report that remembers when the first optimizer step was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told_s: float | None = None

    def hear(self, line: AnyLine) -> None:
        """Take one line."""
        super().hear(line)
        if self.told_s is None and isinstance(line, Progress) and line.step > 0:
            self.told_s = time.perf_counter()


def seconds_to_first_step(home: Path, dataset: str) -> float:
    """Seconds from exec'ing the trainer's child to its first step: imports, rows, base loss, compiling, the step."""
    settings = Settings(home=home)
    database = open_database(settings.resolved_database_url)
    claim = _claimed_run(database, settings, dataset)
    report = FirstStep()
    started_s = time.perf_counter()
    with ChildProcess("tunix_rt_trainer.job", claim, settings, report) as child:
        child.wait(lambda: "timed" if report.told_s else None)
    database.close()
    if report.told_s is None:
        raise RuntimeError(f"the trainer ended before its first step: {report.failure or report.take()}")
    return report.told_s - started_s


def _claimed_run(database: Database, settings: Settings, dataset: str) -> Claim:
    services = Services(settings, database, open_store(settings.resolved_artifacts_url))
    train = SftSpec(epochs=1000, max_steps=STEPS, batch_size=64, max_tokens=128)
    with database.transaction() as session:
        run = accept_run(session, services, RunSpec(dataset=dataset, base_model="tiny", train=train))
        job = session.query(JobRecord).filter_by(run_id=run.id).one()
        claim = pipeline.claim(session, job.id, "benchmark", settings.lease_s)
    assert claim, "nobody else could have claimed it"
    return claim


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
