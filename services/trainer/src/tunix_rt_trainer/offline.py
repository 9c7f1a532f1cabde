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
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
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
    leaving: threading.Event = field(default_factory=threading.Event)
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
        sys.stderr.write(f"{words}\n")
        sys.stderr.flush()


def train_offline(
    spec: Mapping[str, Any],
    dataset: Path,
    out: Path,
    *,
    base_model: str | None = None,
    splits: Mapping[str, Any] | None = None,
) -> RunBundle:
    """Train a run to its end and leave its bundle in `out`; return at once when it is there already.

    `spec` has the fields of a run (`RunSpec`); `base_model`, a preset or a model directory, goes before the spec's.
    `dataset` is a file of traces, or a folder that `tunix-rt datasets pull` wrote. A file is split as `splits` says, in
    the fields of `DatasetSpec` (`validation_fraction`, `test_fraction`, `seed`).

    Raises:
        InvalidInput: the spec, the data, the model or the folder cannot be used; the message names what is wrong.
        Interrupted: SIGINT or SIGTERM came; a checkpoint is kept, and the same call goes on from there.
    """
    wanted = dict(spec) | ({"base_model": base_model} if base_model is not None else {})
    _check_out(out)
    work = out / WORK_FOLDER
    work.mkdir(parents=True, exist_ok=True)
    named = localinputs.dataset_spec(wanted, dataset, splits or {})
    manifest = localinputs.fresh_dataset(dataset, named, work / DATASET_FOLDER)
    run = localinputs.run_spec(wanted, manifest)
    models = localinputs.local_models(run)
    base = _described(models)
    if not (out / BUNDLE_FILE).exists():
        _replace(work / DATASET_FOLDER, out / DATASET_FOLDER)
        terminal = Terminal(MetricsFile(out / METRICS_FILE))
        with _leaving_on_signals(terminal.leaving):
            trained = _train(terminal, run, manifest, models, out)
        runbundle.write_bundle(out, _bundle(run, manifest, base, trained, out))
    bundle = runbundle.read_bundle(out)
    shutil.rmtree(work, ignore_errors=True)
    if (bundle.spec, bundle.dataset_sha256, bundle.base_model) != (run, manifest.dataset_sha256, base):
        raise InvalidInput(f"{out} holds the bundle of another run: name another folder", field="out")
    runbundle.check_files(out, bundle)
    return bundle


def main(arguments: Sequence[str]) -> int:
    """Read the command line, train, and say what came of it; the exit code."""
    given = _parser().parse_args(arguments)
    told = {"validation_fraction": given.validation_fraction, "test_fraction": given.test_fraction}
    splits = {name: value for name, value in (told | {"seed": given.split_seed}).items() if value is not None}
    try:
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
    sys.stderr.write(f"{given.out} holds the bundle {digest(bundle)[:12]}: take it in with `tunix-rt runs import`\n")
    return 0


def _check_out(out: Path) -> None:
    """Refuse a folder that holds what no training left there: parts of it would be replaced."""
    found = {path.name for path in out.glob("[!.]*")}
    if found and not (found <= PARTS and found & {BUNDLE_FILE, WORK_FOLDER}):
        raise InvalidInput(f"{out} holds other files than a bundle's: name an empty folder", field="out")


def _train(terminal: Terminal, run: RunSpec, manifest: DatasetManifest, models: Models, out: Path) -> Trained:
    folder, work = out / DATASET_FOLDER, out / WORK_FOLDER
    described = describe_inputs(
        run.train,
        models,
        dataset_sha256=manifest.dataset_sha256,
        train_rows=read_split(folder, manifest, "train"),
        validation_rows=read_split(folder, manifest, "validation"),
    )
    data = encode_splits(terminal, described, TokenCache(work / "tokens"))
    refuse_what_does_not_fit(terminal, described, data)
    weights = load_weights(described, models)
    keeper = LocalCheckpoints(terminal, work / "checkpoints", run.train.seed, described.digests)
    trained = training.fit(terminal, described, weights, data, work / MODEL_FOLDER, keeper)
    _replace(work / MODEL_FOLDER, out / MODEL_FOLDER)
    return trained


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
def _leaving_on_signals(leaving: threading.Event) -> Iterator[None]:
    """Let the first signal of each kind ask for a checkpoint, and the second one act at once."""
    before: dict[int, Any] = {}

    def leave(number: int, _: object) -> None:
        leaving.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tunix_rt_trainer.offline", description=train_offline.__doc__)
    parser.add_argument("--spec", type=Path, required=True, help="a JSON file with the fields of a run")
    parser.add_argument("--dataset", type=Path, required=True, help="a file of traces, or a pulled dataset's folder")
    parser.add_argument("--base-model", help="a preset or a model directory; the spec's unless given")
    parser.add_argument("--out", type=Path, required=True, help="the bundle's folder; started again, it goes on there")
    parser.add_argument("--validation-fraction", type=float, help="share of a file's prompts kept for validation")
    parser.add_argument("--test-fraction", type=float, help="share of a file's prompts kept for judging")
    parser.add_argument("--split-seed", type=int, help="equal seeds split equal traces equally")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
