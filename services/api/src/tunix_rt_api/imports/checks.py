"""What of a bundle can be checked without JAX and without judging: everything that its files say of each other.

All is read from the store, where a file is what its sha256 says. What is refused is refused by its name, and nothing
has been written by then.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

from pydantic import ValidationError

from tunix_rt_api.runs.modeldirs import MAX_CONFIG_BYTES, MODEL_LAYOUT
from tunix_rt_api.strictjson import parse_object
from tunix_rt_common.datasetcheck import check_dataset
from tunix_rt_common.datasets import DatasetManifest, ShardEntry
from tunix_rt_common.errors import InvalidInput, NotFound, UnusableModel
from tunix_rt_common.findings import first_finding
from tunix_rt_common.peft import ADAPTER_FILES, ADAPTER_FOLDER
from tunix_rt_common.reports import EvalReport, FileEntry, digest, eval_set_sha256
from tunix_rt_common.runbundle import (
    ADVICE,
    DATASET_FOLDER,
    EVALUATION_FILE,
    METRICS_FILE,
    MODEL_FOLDER,
    Metric,
    RunBundle,
    read_metrics,
)
from tunix_rt_common.safetensors_header import read_tensors
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest

MANIFEST = f"{DATASET_FOLDER}/manifest.json"
MAX_DOCUMENT_BYTES = 256 << 20
MAX_LINE_BYTES = 24 << 20


@dataclass(frozen=True)
class CheckedBundle:
    """A bundle whose parts fit each other. Whether the report's scores are those of its answers is not known yet."""

    bundle: RunBundle
    model: FolderManifest
    parameters: int
    dataset: DatasetManifest
    metrics: list[Metric]
    report: EvalReport | None


def check_bundle(store: ArtifactStore, bundle: RunBundle, is_known: Callable[[str], bool]) -> CheckedBundle:
    """Check the parts of a bundle; `is_known` says of a dataset's digest that the platform has it, rows checked.

    Raises:
        InvalidInput: a file was not uploaded, is malformed, or does not fit the others; `field` names it.
    """
    for entry in bundle.files:
        _check_size(store, entry)
    model = FolderManifest(files=bundle.below(MODEL_FOLDER))
    parameters = _check_model(store, model)
    dataset = _check_dataset(store, bundle, is_known)
    return CheckedBundle(
        bundle=bundle,
        model=model,
        parameters=parameters,
        dataset=dataset,
        metrics=_check_metrics(store, bundle),
        report=_check_report(store, bundle, digest(model), dataset),
    )


def _check_size(store: ArtifactStore, entry: FileEntry) -> None:
    try:
        size_bytes = store.size_bytes(entry.sha256)
    except NotFound:
        raise InvalidInput(
            f"{entry.path} was not uploaded: PUT it to /api/v1/imports/files/{entry.sha256} first", field=entry.path
        ) from None
    if size_bytes != entry.size_bytes:
        raise InvalidInput(
            f"{entry.path} has {size_bytes} bytes, and the bundle says {entry.size_bytes}: {ADVICE}", field=entry.path
        )


def _check_model(store: ArtifactStore, model: FolderManifest) -> int:
    """Refuse what is no model directory, by the rules for base models; how many parameters it has."""
    names = {entry.path for entry in model.files}
    for name in names:
        if not _is_model_file(name):
            path = f"{MODEL_FOLDER}/{name}"
            raise UnusableModel(f"{path} is no file of a model directory: {ADVICE}", field=path)
    if "tokenizer.json" not in names:
        raise UnusableModel(f"{MODEL_FOLDER} has no tokenizer.json: {ADVICE}", field=MODEL_FOLDER)
    _check_config(store, next(entry for entry in model.files if entry.path == "config.json"))
    counts = {entry.path: _parameters(store, entry) for entry in model.files if entry.path.endswith(".safetensors")}
    parameters = sum(count for path, count in counts.items() if "/" not in path)
    if not parameters:
        raise UnusableModel(f"{MODEL_FOLDER} has no *.safetensors: {ADVICE}", field=MODEL_FOLDER)
    return parameters


def _is_model_file(name: str) -> bool:
    """A file of a Hugging Face directory, or of the adapter that was merged into it."""
    known = "/" not in name and any(fnmatchcase(name, pattern) for pattern in MODEL_LAYOUT.files)
    return known or name in {f"{ADAPTER_FOLDER}/{file}" for file in ADAPTER_FILES}


def _check_config(store: ArtifactStore, entry: FileEntry) -> None:
    field = f"{MODEL_FOLDER}/{entry.path}"
    if entry.size_bytes > MAX_CONFIG_BYTES:
        raise UnusableModel(f"{field} is larger than {MAX_CONFIG_BYTES} bytes: {ADVICE}", field=field)
    try:
        document = json.loads(store.read(entry.sha256))
    except (ValueError, RecursionError) as error:
        raise UnusableModel(f"{field} is not JSON ({error}): {ADVICE}", field=field) from None
    if not isinstance(document, dict):
        raise UnusableModel(f"{field} does not hold a JSON object: {ADVICE}", field=field)


def _parameters(store: ArtifactStore, entry: FileEntry) -> int:
    name = f"{MODEL_FOLDER}/{entry.path}"
    try:
        with store.open(entry.sha256) as source:
            return sum(prod(shape) for _, shape in read_tensors(source, entry.size_bytes, name).values())
    except UnusableModel as error:
        raise UnusableModel(str(error), field=name) from None


def _check_dataset(store: ArtifactStore, bundle: RunBundle, is_known: Callable[[str], bool]) -> DatasetManifest:
    manifest = _manifest(store, bundle)
    if manifest.dataset_sha256 != bundle.dataset_sha256:
        raise InvalidInput(
            f"dataset_sha256 of the bundle is not that of its dataset's manifest: {ADVICE}", field="dataset_sha256"
        )
    listed = {(entry.path, entry.sha256, entry.size_bytes) for entry in bundle.below(DATASET_FOLDER)}
    for shard in manifest.shards:
        if (shard.path, shard.sha256, shard.size_bytes) not in listed:
            name = f"{DATASET_FOLDER}/{shard.path}"
            raise InvalidInput(f"{name} is not the shard that the dataset's manifest lists: {ADVICE}", field=name)
    _check_asked(bundle, manifest)
    if not is_known(manifest.dataset_sha256):
        check_dataset(manifest, lambda shard: _lines(store, shard))
    return manifest


def _manifest(store: ArtifactStore, bundle: RunBundle) -> DatasetManifest:
    """Read as strictly as a request is, since its spec becomes a row."""
    content = _content(store, _entry(bundle, MANIFEST))
    try:
        return DatasetManifest.model_validate(parse_object(content))
    except ValidationError as error:
        raise InvalidInput(f"{MANIFEST} is malformed ({first_finding(error)}): {ADVICE}", field=MANIFEST) from None
    except InvalidInput as error:
        raise InvalidInput(f"{MANIFEST} is malformed ({error}): {ADVICE}", field=MANIFEST) from None


def _check_asked(bundle: RunBundle, manifest: DatasetManifest) -> None:
    """Refuse a run that could not have been trained, and one that nobody could judge from the bundle alone."""
    asked = bundle.spec.evaluate
    for name in ("dataset", "endpoint") if asked else ():
        if getattr(asked, name) is not None:
            raise InvalidInput(
                f"spec.evaluate.{name} leads out of the bundle, whose model is judged here on its own data: train "
                "without it",
                field=f"spec.evaluate.{name}",
            )
    for split in ("train", *([asked.split] if asked else [])):
        if not manifest.splits[split].rows:
            raise InvalidInput(f"the dataset has no rows in its {split} split: {ADVICE}", field=f"splits.{split}")


def _check_metrics(store: ArtifactStore, bundle: RunBundle) -> list[Metric]:
    metrics = list(read_metrics(_content(store, _entry(bundle, METRICS_FILE)).splitlines()))
    if not metrics:
        raise InvalidInput(f"{METRICS_FILE} holds no step: {ADVICE}", field=METRICS_FILE)
    return metrics


def _check_report(
    store: ArtifactStore, bundle: RunBundle, model_sha256: str, dataset: DatasetManifest
) -> EvalReport | None:
    asked = bundle.spec.evaluate
    if asked is None or bundle.entry(EVALUATION_FILE) is None:
        return None
    report = _report(store, bundle)
    expected = {
        "model_sha256": model_sha256,
        "dataset_sha256": dataset.dataset_sha256,
        "split": asked.split,
        "judge": asked.judge,
        "sampling": asked.sampling,
        "eval_set_sha256": eval_set_sha256(report.items),
        "endpoint": None,
    }
    for name, value in expected.items():
        if getattr(report, name) != value:
            raise InvalidInput(
                f"{EVALUATION_FILE}: {name} is not that of this bundle's model, data and spec: evaluate it again",
                field=f"{EVALUATION_FILE}.{name}",
            )
    return report


def _entry(bundle: RunBundle, path: str) -> FileEntry:
    return next(entry for entry in bundle.files if entry.path == path)


def _report(store: ArtifactStore, bundle: RunBundle) -> EvalReport:
    content = _content(store, _entry(bundle, EVALUATION_FILE))
    try:
        return EvalReport.model_validate_json(content)
    except ValidationError as error:
        words = f"{EVALUATION_FILE} is malformed ({first_finding(error)}): {ADVICE}"
        raise InvalidInput(words, field=EVALUATION_FILE) from None


def _content(store: ArtifactStore, entry: FileEntry) -> bytes:
    if entry.size_bytes > MAX_DOCUMENT_BYTES:
        raise InvalidInput(f"{entry.path} is larger than {MAX_DOCUMENT_BYTES} bytes: {ADVICE}", field=entry.path)
    return store.read(entry.sha256)


def _lines(store: ArtifactStore, shard: ShardEntry) -> Iterator[bytes]:
    """A shard's lines with their line feeds, as it streams in."""
    held = b""
    for chunk in store.stream(shard.sha256):
        *whole, held = (held + chunk).split(b"\n")
        yield from (line + b"\n" for line in whole)
        if len(held) > MAX_LINE_BYTES:
            name = f"{DATASET_FOLDER}/{shard.path}"
            raise InvalidInput(f"{name} has a line of more than {MAX_LINE_BYTES} bytes: {ADVICE}", field=name)
    if held:
        yield held
