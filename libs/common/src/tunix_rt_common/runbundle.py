"""A run that was trained without a platform, as a folder that a platform can check and take in.

    bundle.json              what was asked, on what it ran, and every other file by its sha256; written last
    metrics.jsonl            what each step measured
    dataset/                 the dataset version: manifest and shards
    model/                   the trained model, a Hugging Face directory
    evaluation.json          its evaluation report, where one was made

A bundle is known by the digest of its `bundle.json` (`reports.digest`), and that by way of its files' digests is all of
it.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, Field, ValidationError, field_validator, model_validator

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.findings import first_finding
from tunix_rt_common.reports import Document, FileEntry, Sha256
from tunix_rt_common.specs import PRESET_NAMES, RunSpec

BUNDLE_FILE = "bundle.json"
METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "evaluation.json"
DATASET_FOLDER, MODEL_FOLDER = "dataset", "model"
REQUIRED = (METRICS_FILE, f"{DATASET_FOLDER}/manifest.json", f"{MODEL_FOLDER}/config.json")
PARTS = re.compile(rf"{re.escape(METRICS_FILE)}|{re.escape(EVALUATION_FILE)}|({DATASET_FOLDER}|{MODEL_FOLDER})/.+")
OF_EVERY_METHOD = frozenset({"loss", "validation_loss", "learning_rate", "gradient_norm", "tokens_per_s", "eta_s"})
ADVICE = "make or copy the bundle again"
MAX_BUNDLE_BYTES = 1024 * 1024


class BaseModel(Document):
    """Where training started: a preset, or a model directory by the digest of its files."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    sha256: Sha256 | None

    @model_validator(mode="after")
    def _is_a_preset_or_has_a_digest(self) -> Self:
        if self.sha256 is None and self.name not in PRESET_NAMES:
            raise ValueError(f"{self.name!r} is no preset ({', '.join(PRESET_NAMES)}), and has no sha256: {ADVICE}")
        return self


class RunBundle(Document):
    """What `bundle.json` holds. `environment` and `versions` are for the record: nothing rests on them."""

    schema_version: Literal["1"] = "1"
    spec: RunSpec
    base_model: BaseModel
    dataset_sha256: Sha256
    environment: dict[str, str]
    versions: dict[str, str]
    code_version: str
    created_at: AwareDatetime
    files: tuple[FileEntry, ...]

    @field_validator("files")
    @classmethod
    def _files_make_a_bundle(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        paths = [entry.path for entry in files]
        if len(set(paths)) != len(paths):
            raise ValueError(f"one path is listed twice: {ADVICE}")
        if unknown := next((path for path in paths if not PARTS.fullmatch(path)), None):
            raise ValueError(f"{unknown} is no part of a bundle: {ADVICE}")
        if missing := next((path for path in REQUIRED if path not in paths), None):
            raise ValueError(f"{missing} is missing: {ADVICE}")
        return files

    @model_validator(mode="after")
    def _evaluation_was_asked_for(self) -> Self:
        if self.entry(EVALUATION_FILE) and self.spec.evaluate is None:
            raise ValueError(f"{EVALUATION_FILE} is there, and spec.evaluate asks for none: {ADVICE}")
        return self

    def entry(self, path: str) -> FileEntry | None:
        """One file, if the bundle has it."""
        return next((entry for entry in self.files if entry.path == path), None)

    def below(self, folder: str) -> tuple[FileEntry, ...]:
        """The files of one folder, sorted, with their paths below it."""
        inside = (entry for entry in self.files if entry.path.startswith(f"{folder}/"))
        found = (entry.model_copy(update={"path": entry.path.removeprefix(f"{folder}/")}) for entry in inside)
        return tuple(sorted(found, key=lambda entry: PurePosixPath(entry.path)))


class Metric(Document):
    """A line of `metrics.jsonl`: what one step measured; step 0 is the model before training."""

    step: Annotated[int, Field(ge=0, lt=2**31)]
    numbers: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], float | None]


def read_metrics(lines: Iterable[bytes]) -> Iterator[Metric]:
    """The metrics of a file, in order.

    Raises:
        InvalidInput: a line is no metric, or its step does not come after that of the line before.
    """
    last = -1
    for number, line in enumerate(lines, start=1):
        try:
            metric = Metric.model_validate_json(line)
        except ValidationError as error:
            words = f"{METRICS_FILE} line {number} is no metric ({first_finding(error)}): {ADVICE}"
            raise InvalidInput(words, field=METRICS_FILE) from error
        if metric.step <= last:
            raise InvalidInput(
                f"{METRICS_FILE} line {number} has step {metric.step} after step {last}: {ADVICE}", field=METRICS_FILE
            )
        last = metric.step
        yield metric


def measured(metrics: Iterable[Metric]) -> dict[str, Any]:
    """The numbers that a version is registered with: the newest of each; losses in nats per trained token or pair."""
    newest: dict[str, float | None] = {}
    base_loss, step = None, None
    for metric in metrics:
        newest |= {name: value for name, value in metric.numbers.items() if value is not None}
        step = metric.step
        if step == 0:
            base_loss = metric.numbers.get("validation_loss")
    return {
        "steps": step,
        "train_loss": newest.get("loss"),
        "validation_loss": newest.get("validation_loss"),
        "base_validation_loss": base_loss,
        **{name: value for name, value in newest.items() if name not in OF_EVERY_METHOD},
    }


def list_files(folder: Path) -> tuple[FileEntry, ...]:
    """The parts of a bundle that lie in a folder, hashed; `bundle.json` itself and other files are left out."""
    found = ((path, path.relative_to(folder).as_posix()) for path in sorted(folder.rglob("*")) if path.is_file())
    return tuple(
        FileEntry(path=name, sha256=file_sha256(path), size_bytes=path.stat().st_size)
        for path, name in found
        if PARTS.fullmatch(name)
    )


def write_bundle(folder: Path, bundle: RunBundle) -> None:
    """Put `bundle.json` beside its files, in one move."""
    partial = folder / f".{BUNDLE_FILE}.partial"
    partial.write_text(bundle.model_dump_json(indent=2) + "\n")
    partial.replace(folder / BUNDLE_FILE)


def read_bundle(folder: Path) -> RunBundle:
    """The description of a bundle; its files are not looked at.

    Raises:
        InvalidInput: there is none, or it describes no bundle; the message names the field.
    """
    path = folder / BUNDLE_FILE
    try:
        if path.stat().st_size > MAX_BUNDLE_BYTES:
            raise InvalidInput(f"{path} is larger than {MAX_BUNDLE_BYTES} bytes: {ADVICE}", field=BUNDLE_FILE)
        return RunBundle.model_validate_json(path.read_bytes())
    except OSError as error:
        advice = "name the folder that training left; one without bundle.json is not finished"
        raise InvalidInput(f"{path} cannot be read ({error.strerror}): {advice}", field=BUNDLE_FILE) from error
    except ValidationError as error:
        raise InvalidInput(f"{path} is not usable ({first_finding(error)}): {ADVICE}", field=BUNDLE_FILE) from error


def check_files(folder: Path, bundle: RunBundle) -> None:
    """Compare every listed file with its digest.

    Raises:
        InvalidInput: one is missing, is not what it was, or is a link, which may lead anywhere.
    """
    for entry in bundle.files:
        path = folder / entry.path
        if not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
            raise InvalidInput(f"{entry.path} is a link: put the file itself there", field=entry.path)
        if not path.is_file():
            raise InvalidInput(f"{entry.path} is listed in {BUNDLE_FILE} and missing: {ADVICE}", field=entry.path)
        if path.stat().st_size != entry.size_bytes or file_sha256(path) != entry.sha256:
            raise InvalidInput(
                f"{entry.path} is not the file that {BUNDLE_FILE} lists: it was changed or cut; {ADVICE}",
                field=entry.path,
            )


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
