"""How long things take to start: the command, and the trainer's child until its first step.

As a script: a run on GSM8K, first and second start, beside its peers' processes on the same rows, each to its first
step.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
from comparison import DATA, Contender, Worker, python_of
from measurement import Measurement, median_seconds, record, seconds, show
from service_speed import build, serving
from training_work import CONFIG, SPEC, write_work

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
from tunix_rt_modeling import huggingface
from tunix_rt_modeling.tokenizer import load_tokenizer
from tunix_rt_modeling.transformer import init_params

COMMAND = Path(sys.executable).with_name("tunix-rt")
STARTS = 15
RESTARTS = 3
STEPS = 100
GSM8K = "gsm8k"
PEERS = (
    Contender("TRL SFTTrainer", "training_trl.py", "torch"),
    Contender("google-tunix PeftTrainer", "training_tunix.py", "tunix"),
    Contender("bare transformers step", "training_transformers.py", "torch"),
)
BARE_JAX = "import jax; jax.numpy.ones(8).sum().block_until_ready()"


def measure_starts(home: Path, dataset: str) -> list[Measurement]:
    """Starts, with all files in the page cache; `home` holds the built dataset."""
    bare_ms = 1e3 * median_seconds(lambda: _run(sys.executable, "-c", "pass"), STARTS)
    help_ms = 1e3 * median_seconds(lambda: _run(COMMAND, "--help"), STARTS)
    jax_s = seconds(lambda: _run(sys.executable, "-c", BARE_JAX))
    train = SftSpec(epochs=1000, max_steps=STEPS, batch_size=64, max_tokens=128)
    spec = RunSpec(dataset=dataset, base_model="tiny", train=train)
    first_s, second_s = (seconds_to_first_step(Settings(home=home), spec) for _ in range(2))
    return [
        Measurement("tunix-rt --help", "ms", help_ms, bare_ms, "bare Python"),
        Measurement("trainer to its first step", "s", first_s, jax_s, "bare JAX"),
        Measurement("trainer, second start", "s", second_s, jax_s, "bare JAX"),
    ]


def compare(data: Path) -> list[Measurement]:
    """Seconds to the first step of a packed run on GSM8K: the first start, later ones, and those of the peers."""
    with tempfile.TemporaryDirectory() as folder:
        home, model, work = (Path(folder) / name for name in ("home", "model", "work"))
        home.mkdir()
        work.mkdir()
        _prepare(data, home, model, work)
        settings = Settings(home=home, model_roots=(model,))
        spec = RunSpec(dataset=GSM8K, base_model=str(model), train=SPEC)
        first_s, *later_s = (seconds_to_first_step(settings, spec) for _ in range(1 + RESTARTS))
        arguments = [str(data), str(work), "1", "packed"]
        peers_s = {peer.name: _peer_seconds(peer, arguments, work) for peer in PEERS}
    jax_s = seconds(lambda: _run(sys.executable, "-c", BARE_JAX))
    ours_s = median(later_s)
    return [
        Measurement("to the first step on GSM8K, first start", "s", first_s, jax_s, "bare JAX"),
        Measurement("to the first step on GSM8K, later starts", "s", ours_s, jax_s, "bare JAX"),
        *(Measurement(f"to the first step: {name}", "s", peer_s, ours_s, "ours") for name, peer_s in peers_s.items()),
    ]


def _prepare(data: Path, home: Path, model: Path, work: Path) -> None:
    """The dataset in a home of its own, the model as a directory, and what the peers read."""
    with serving(home) as client:
        with (data / GSM8K / "train.jsonl").open("rb") as lines:
            client.traces.upload(lines, trace_format=GSM8K, source=GSM8K)
        build(client, GSM8K)
    tokenizer = load_tokenizer(data / "tokenizers" / "minimind-6400")
    huggingface.save(model, CONFIG, init_params(CONFIG, jax.random.key(0)), tokenizer)
    write_work(data, work)


def _peer_seconds(peer: Contender, arguments: list[str], logs: Path) -> float:
    """The median of some starts, after one that fills the page cache."""
    python_of(peer.environment)

    def start() -> None:
        with Worker(peer, arguments, logs / f"{peer.script}.log") as worker:
            worker.round(0)

    start()
    return median_seconds(start, RESTARTS)


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


def seconds_to_first_step(settings: Settings, spec: RunSpec) -> float:
    """Seconds from exec'ing the trainer's child to its first step: imports, rows, base loss, compiling, the step."""
    database = open_database(settings.resolved_database_url)
    claim = _claimed_run(database, settings, spec)
    report = FirstStep()
    started_s = time.perf_counter()
    with ChildProcess("tunix_rt_trainer.job", claim, settings, report) as child:
        child.wait(lambda: "timed" if report.told_s else None)
    database.close()
    if report.told_s is None:
        raise RuntimeError(f"the trainer ended before its first step: {report.failure or report.take()}")
    return report.told_s - started_s


def _claimed_run(database: Database, settings: Settings, spec: RunSpec) -> Claim:
    services = Services(settings, database, open_store(settings.resolved_artifacts_url))
    with database.transaction() as session:
        run = accept_run(session, services, spec)
        job = session.query(JobRecord).filter_by(run_id=run.id).one()
        claim = pipeline.claim(session, job.id, "benchmark", settings.lease_s)
    assert claim, "nobody else could have claimed it"
    return claim


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    os.environ["WARM_UP_STEPS"] = "1"
    results = compare(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
    record(results)
    show(results)
