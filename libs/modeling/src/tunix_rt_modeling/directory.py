"""Reading the files of a model directory without ever leaving it or running anything in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from tunix_rt_common.errors import UnusableModel


def inside(directory: Path, name: str) -> Path:
    """Return the path of an existing file of the directory.

    Raises:
        UnusableModel: there is no such file, or the name or a symbolic link leads out of the directory.
    """
    path = directory / name
    if not path.resolve().is_relative_to(directory.resolve()):
        raise UnusableModel(f"{name} leads out of the model directory: put the file itself into {directory}")
    if not path.is_file():
        raise UnusableModel(f"{directory} has no file {name}: copy the whole model directory")
    return path


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in one of the directory's files, or raise UnusableModel."""
    return parse_json(name, inside(directory, name).read_bytes())


def parse_json(name: str, content: bytes) -> dict[str, Any]:
    """Return the JSON object in `content`; errors name the file."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnusableModel(f"{name} is not JSON ({error}): copy the file again") from error
    if not isinstance(document, dict):
        raise UnusableModel(f"{name} holds {type(document).__name__}, not a JSON object: copy the file again")
    return document


def read_float32(path: Path, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the named tensors of a checked safetensors file as float32, one in memory at a time.

    Raises:
        UnusableModel: a tensor holds NaN or infinity; it is named.
    """
    with safe_open(path, framework="numpy") as file:
        for name in names:
            tensor = file.get_tensor(name).astype(np.float32)
            if not np.isfinite(tensor).all():
                raise UnusableModel(f"{path.name}: {name} holds NaN or infinity: take an earlier checkpoint")
            yield name, tensor
