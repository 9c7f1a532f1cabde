"""Taking directories of this machine into the store, so that a run stands on content and not on a path."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunix_rt_common.errors import InvalidInput, UnusableModel
from tunix_rt_common.peft import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from tunix_rt_common.reports import FileEntry
from tunix_rt_common.safetensors_header import check_safetensors
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.storage.bundle import FolderManifest

MAX_SHOWN_CHARS = 200
MAX_CONFIG_BYTES = 1024 * 1024
WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Layout:
    """What a directory of a kind holds: which files are taken, and which must be there, the configuration first."""

    kind: str
    files: tuple[str, ...]
    required: tuple[str, ...]


MODEL_LAYOUT = Layout(
    "Hugging Face model directory",
    (
        "config.json",
        "generation_config.json",
        "*.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
    ),
    ("config.json", "tokenizer.json"),
)
ADAPTER_LAYOUT = Layout("PEFT adapter directory", (ADAPTER_CONFIG, ADAPTER_WEIGHTS), (ADAPTER_CONFIG, ADAPTER_WEIGHTS))


def check_directory(roots: Sequence[Path], reference: str, layout: Layout, field: str) -> list[Path]:
    """Check what can be checked without JAX; the files that are taken. Errors name `field`.

    Only directories under one of `roots` may be named: a server does not read any path that a client sends, nor what
    a link in the directory points to elsewhere.
    """
    try:
        folder = Path(reference).expanduser().resolve()
        if not any(folder.is_relative_to(root.resolve()) for root in roots):
            raise InvalidInput(
                f"this server reads no model directory {_quoted(reference)}: set TUNIX_RT_MODEL_ROOTS to a JSON list "
                "of the folders it may read, or use a preset or a registered model",
                field=field,
            )
        return _checked(folder, reference, layout, field)
    except (OSError, RuntimeError) as error:  # unreadable, links in a circle, the home of an unknown user
        raise InvalidInput(
            f"the directory {_quoted(reference)} cannot be read ({error}): correct the path or its permissions",
            field=field,
        ) from None


def store_directory(store: ArtifactStore, paths: Sequence[Path]) -> str:
    """Store checked files; the manifest's sha256."""
    return store.put_document(FolderManifest(files=tuple(_store(store, path) for path in paths)))


def without_weights(paths: Sequence[Path]) -> list[Path]:
    """The files that describe a model or an adapter."""
    return [path for path in paths if path.suffix != WEIGHTS_SUFFIX]


def is_directory(reference: str) -> bool:
    """Whether there is such a directory; no reference is too odd to ask."""
    try:
        return Path(reference).is_dir()
    except OSError:
        return False


def _checked(folder: Path, reference: str, layout: Layout, field: str) -> list[Path]:
    if not folder.is_dir():
        raise InvalidInput(f"no directory {_quoted(reference)}: give the path of a {layout.kind}", field=field)
    paths = sorted({path for pattern in layout.files for path in folder.glob(pattern) if path.is_file()})
    for path in paths:
        if not path.resolve().is_relative_to(folder):
            raise UnusableModel(
                f"{folder.name}/{path.name} is a link that leads out of the directory: put the file itself there "
                "(cp -L copies what links point to)",
                field=field,
            )
    _check_required(folder, paths, layout, field)
    _check_config(folder / layout.required[0], field)
    _check_weights(folder, paths, field)
    return paths


def _check_required(folder: Path, paths: Sequence[Path], layout: Layout, field: str) -> None:
    missing = next((name for name in layout.required if folder / name not in paths), None)
    if missing is None:
        return
    fault = f"has no {missing}: give a whole {layout.kind}"
    if layout is MODEL_LAYOUT and (folder / ADAPTER_CONFIG).is_file():
        fault = f"is an adapter, not a model: name its base as {field}, and the adapter as train.lora.adapter"
    elif missing == "tokenizer.json" and (folder / "tokenizer.model").is_file():
        fault = (
            "has its tokenizer as tokenizer.model alone, which is not read: write tokenizer.json beside it with "
            "transformers' AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    raise UnusableModel(f"{folder.name} {fault}", field=field)


def _check_weights(folder: Path, paths: Sequence[Path], field: str) -> None:
    weights = [path for path in paths if path.suffix == WEIGHTS_SUFFIX]
    if not weights:
        raise UnusableModel(f"{folder.name} has no *.safetensors: convert its weights to safetensors", field=field)
    for path in weights:
        try:
            check_safetensors(path)
        except UnusableModel as error:
            raise UnusableModel(str(error), field=field) from None


def _check_config(path: Path, field: str) -> None:
    place = f"{path.parent.name}/{path.name}"
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise UnusableModel(f"{place} is larger than {MAX_CONFIG_BYTES} bytes: download it again", field=field)
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnusableModel(f"{place} is not JSON ({error}): download it again", field=field) from None
    if not isinstance(document, dict):
        raise UnusableModel(f"{place} does not hold a JSON object: download it again", field=field)


def _quoted(reference: str) -> str:
    return repr(reference if len(reference) <= MAX_SHOWN_CHARS else f"{reference[:MAX_SHOWN_CHARS]}…")


def _store(store: ArtifactStore, path: Path) -> FileEntry:
    blob = store.put_file(path)
    return FileEntry(path=path.name, sha256=blob.sha256, size_bytes=blob.size_bytes)
