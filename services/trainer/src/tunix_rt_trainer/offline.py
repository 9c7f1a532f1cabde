"""`python -m tunix_rt_trainer.offline`: train from a spec and a file of traces alone, with no service beside it.

    python -m tunix_rt_trainer.offline --spec run.json --dataset traces.jsonl --base-model tiny --out bundle/

What it leaves is a bundle, which `tunix-rt runs import` takes into a platform's registry. Started again on the same
folder it goes on from the newest checkpoint there, to the same weights bit for bit.
"""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tunix_rt_common import runbundle
from tunix_rt_common.datasetfolder import read_split
from tunix_rt_common.datasets import DatasetManifest
from tunix_rt_common.errors import InvalidInput, TunixError
from tunix_rt_common.reports import digest
from tunix_rt_common.runbundle import (
    BUNDLE_FILE,
    DATASET_FOLDER,
    EVALUATION_FILE,
    METRICS_FILE,
    MODEL_FOLDER,
    BaseModel,
    RunBundle,
)
from tunix_rt_common.specs import RunSpec
from tunix_rt_common.version import CODE_VERSION
from tunix_rt_trainer import localinputs, training
from tunix_rt_trainer.encoding import encode_splits
from tunix_rt_trainer.engine import processes
from tunix_rt_trainer.engine.checkpoints import LIBRARIES
from tunix_rt_trainer.inputs import Models, describe_inputs, load_weights
from tunix_rt_trainer.localkeeping import Interrupted, LocalCheckpoints, MetricsFile
from tunix_rt_trainer.preflight import refuse_what_does_not_fit
from tunix_rt_trainer.tokencache import TokenCache
from tunix_rt_trainer.training import Trained

WORK_FOLDER = "unfinished"
PARTS = {BUNDLE_FILE, METRICS_FILE, EVALUATION_FILE, DATASET_FOLDER, MODEL_FOLDER, WORK_FOLDER}
LINE_EVERY_S = 10.0
BAD_INPUT, INTERRUPTED = 2, 130


@dataclass
class Terminal:
    """Tells a person how training goes, and writes down what it measures."""

    metrics: MetricsFile
    leaving: threading.Event
    _told_s: float = 0.0

    def progress(self, step: int, total_steps: int | None = None, **numbers: float | None) -> None:
        """A line at most every ten seconds, and for the last step."""
        self.metrics.add(step, numbers)
        if time.monotonic() - self._told_s > LINE_EVERY_S or step == total_steps:
            self._told_s = time.monotonic()
            known = ", ".join(f"{name.replace('_', ' ')} {n:.4g}" for name, n in numbers.items() if n is not None)
            self._say(f"step {step}/{total_steps}: {known}")

    def waits(self) -> None:
        """Nobody asks."""

    def story(self, kind: str, message: str, **detail: Any) -> None:  # noqa: ARG002
        """A line."""
        self._say(message)

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[object]:  # noqa: ARG002
        """Nothing is traced."""
        return nullcontext()

    def annotate(self, **attributes: Any) -> None:
        """Nothing is traced."""

    def _say(self, words: str) -> None:
        if not processes.leads():
            return
        sys.stderr.write(f"{words}\n")
        sys.stderr.flush()


def train_offline(
    spec: Mapping[str, Any],
    dataset: Path,
    out: Path,
    *,
    base_model: str | None = None,
    splits: Mapping[str, Any] | None = None,
) -> RunBundle | None:
    """Train a run to its end and leave its bundle in `out`; return at once when it is there already.

    None in a process that trains along and does not lead.

    `spec` has the fields of a run (`RunSpec`); `base_model`, a preset or a model directory, goes before the spec's.
    `dataset` is a file of traces, or a folder that `tunix-rt datasets pull` wrote. A file is split as `splits` says, in
    the fields of `DatasetSpec` (`validation_fraction`, `test_fraction`, `seed`).

    Raises:
        InvalidInput: the spec, the data, the model or the folder cannot be used; the message names what is wrong.
        Interrupted: SIGINT or SIGTERM came; a checkpoint is kept, and the same call goes on from there.
    """
    wanted = dict(spec) | ({"base_model": base_model} if base_model is not None else {})
    _check_out(out)
    with _workplace(out) as work:
        named = localinputs.dataset_spec(wanted, dataset, splits or {})
        manifest = localinputs.fresh_dataset(dataset, named, work / DATASET_FOLDER)
        run = localinputs.run_spec(wanted, manifest)
        models = localinputs.local_models(run)
        if not processes.agreed("done" if (out / BUNDLE_FILE).exists() else ""):
            trained = _train(run, manifest, models, out, work)
            if processes.leads():
                _write(run, manifest, models, trained, out, work)
    return _checked(run, manifest, models, out) if processes.leads() else None


def main(arguments: Sequence[str]) -> int:
    """Read the command line, train, and say what came of it; the exit code."""
    parser = command_line()
    given = parser.parse_args(arguments)
    if given.processes > 1 and not (given.coordinator and 0 <= given.process < given.processes):
        parser.error(f"--processes {given.processes} needs --coordinator HOST:PORT and --process from 0")
    told = {"validation_fraction": given.validation_fraction, "test_fraction": given.test_fraction}
    splits = {name: value for name, value in (told | {"seed": given.split_seed}).items() if value is not None}
    try:
        if given.processes > 1:
            processes.join(given.coordinator, given.processes, given.process)
        spec = _read_spec(given.spec)
        bundle = train_offline(spec, given.dataset, given.out, base_model=given.base_model, splits=splits)
    except Interrupted:
        sys.stderr.write("interrupted: the same command goes on from the checkpoint that was kept\n")
        return INTERRUPTED
    except TunixError as error:
        named = f"{error.field}: " if isinstance(error, InvalidInput) and error.field else ""
        sys.stderr.write(f"error: {named}{error}\n")
        return BAD_INPUT
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or given.out}: {error.strerror}\n")
        return BAD_INPUT
    if bundle:
        sys.stderr.write(
            f"{given.out} holds the bundle {digest(bundle)[:12]}: take it in with `tunix-rt runs import`\n"
        )
    return 0


def _check_out(out: Path) -> None:
    """Refuse a folder that holds what no training left there: parts of it would be replaced."""
    found = {path.name for path in out.glob("[!.]*")}
    if found and not (found <= PARTS and found & {BUNDLE_FILE, WORK_FOLDER}):
        raise InvalidInput(f"{out} holds other files than a bundle's: name an empty folder", field="out")


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """Where a process keeps what it is to find again when it is started again; a folder for now if it does not lead."""
    if not processes.leads():
        with tempfile.TemporaryDirectory(prefix="tunix-rt-") as folder:
            yield Path(folder)
        return
    work = out / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    yield work
    shutil.rmtree(work, ignore_errors=True)


def _train(run: RunSpec, manifest: DatasetManifest, models: Models, out: Path, work: Path) -> Trained:
    """Train as far as a model directory in `work`; what is measured and kept on the way is in `out`."""
    terminal = Terminal(MetricsFile((out if processes.leads() else work) / METRICS_FILE), _leaving())
    described = describe_inputs(
        run.train,
        models,
        dataset_sha256=manifest.dataset_sha256,
        train_rows=read_split(work / DATASET_FOLDER, manifest, "train"),
        validation_rows=read_split(work / DATASET_FOLDER, manifest, "validation"),
    )
    with _signals_ask(terminal.leaving):
        data = encode_splits(terminal, described, TokenCache(work / "tokens"))
        refuse_what_does_not_fit(terminal, described, data)
        weights = load_weights(described, models)
        keeper = LocalCheckpoints(terminal, out / WORK_FOLDER / "checkpoints", run.train.seed, described.digests)
        return training.fit(terminal, described, weights, data, work / MODEL_FOLDER, keeper)


def _leaving() -> threading.Event:
    return processes.Preemption() if processes.are_several() else threading.Event()


def _write(run: RunSpec, manifest: DatasetManifest, models: Models, trained: Trained, out: Path, work: Path) -> None:
    for part in (DATASET_FOLDER, MODEL_FOLDER):
        _replace(work / part, out / part)
    runbundle.write_bundle(out, _bundle(run, manifest, _described(models), trained, out))


def _checked(run: RunSpec, manifest: DatasetManifest, models: Models, out: Path) -> RunBundle:
    bundle = runbundle.read_bundle(out)
    if (bundle.spec, bundle.dataset_sha256, bundle.base_model) != (run, manifest.dataset_sha256, _described(models)):
        raise InvalidInput(f"{out} holds the bundle of another run: name another folder", field="out")
    runbundle.check_files(out, bundle)
    return bundle


def _described(models: Models) -> BaseModel:
    if isinstance(models.base, str):
        return BaseModel(name=models.base, sha256=None)
    return BaseModel(name=models.base.name, sha256=models.base.sha256)


def _bundle(run: RunSpec, manifest: DatasetManifest, base: BaseModel, trained: Trained, out: Path) -> RunBundle:
    return RunBundle(
        spec=run,
        base_model=base,
        dataset_sha256=manifest.dataset_sha256,
        environment=trained.environment,
        versions={library: version(library) for library in LIBRARIES},
        code_version=CODE_VERSION,
        created_at=datetime.now(UTC),
        files=runbundle.list_files(out),
    )


def _replace(fresh: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


@contextmanager
def _signals_ask(leaving: threading.Event) -> Iterator[None]:
    """Let the first signal of each kind ask for a checkpoint, and the second one act at once.

    Where several processes train, JAX listens for SIGTERM, and tells all of them.
    """
    before: dict[int, Any] = {}

    def leave(number: int, _: object) -> None:
        leaving.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread() and not processes.are_several():
        before = {number: signal.signal(number, leave) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _read_spec(path: Path) -> Mapping[str, Any]:
    with suppress(OSError, ValueError):
        document = json.loads(path.read_bytes())
        if isinstance(document, dict):
            return document
    raise InvalidInput(f"{path} holds no JSON object: write a file with one, the fields of a run", field="spec")


def command_line() -> argparse.ArgumentParser:
    """What the command understands."""
    parser = argparse.ArgumentParser("python -m tunix_rt_trainer.offline", description=train_offline.__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="a JSON file with the fields of a run")
    parser.add_argument("--dataset", type=Path, required=True, help="a file of traces, or a pulled dataset's folder")
    parser.add_argument("--base-model", help="a preset or a model directory; the spec's unless given")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder; started again, it goes on there")
    parser.add_argument("--validation-fraction", type=float, help="share of a file's prompts kept for validation")
    parser.add_argument("--test-fraction", type=float, help="share of a file's prompts kept for judging")
    parser.add_argument("--split-seed", type=int, help="equal seeds split equal traces equally")
    parser.add_argument("--processes", type=int, default=1, help="how many processes train, each started like this")
    parser.add_argument("--process", type=int, default=0, help="which of them this is; 0 leads")
    parser.add_argument("--coordinator", help="HOST:PORT where process 0 listens for the others")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
