"""Model directories that are broken or hostile: what shows without JAX is refused when the run is asked for."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WEIGHTS = "model.safetensors"


def header_of(folder: Path) -> tuple[dict[str, Any], bytes]:
    content = (folder / WEIGHTS).read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8:end]), content[end:]


def with_header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Write the weights with another header before the same data."""

    def broken(folder: Path) -> None:
        header, data = header_of(folder)
        change(header)
        text = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data)

    return broken


def first(header: dict[str, Any]) -> dict[str, Any]:
    return next(entry for name, entry in header.items() if name != "__metadata__")


def beyond_the_file(header: dict[str, Any]) -> None:
    entry = first(header)
    entry["shape"], entry["data_offsets"] = [2**40], [0, 2**42]


def overlapping(header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"]
    header[names[1]] = header[names[0]]


def negative(header: dict[str, Any]) -> None:
    first(header)["data_offsets"] = [-4, 0]


def other_shape(header: dict[str, Any]) -> None:
    first(header)["shape"] = [3, 3]


def other_dtype(header: dict[str, Any]) -> None:
    first(header)["dtype"] = "PICKLE"


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def link(name: str, target: str) -> Callable[[Path], object]:
    def broken(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return broken


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.json").rename(folder / "tokenizer.model")


def fifo(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


BROKEN = {
    "no config": (remove("config.json"), "no config.json"),
    "config is not JSON": (write("config.json", b"{"), "config.json is not JSON"),
    "config is a list": (write("config.json", b"[]"), "config.json does not hold a JSON object"),
    "config is no text": (write("config.json", b"\xff\xff"), "config.json is not JSON"),
    "config is bottomless": (write("config.json", b"[" * 100_000), "config.json is not JSON"),
    "config without end": (lambda folder: os.truncate(folder / "config.json", 10**10), "config.json is larger than"),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer.json"),
    "tokenizer of SentencePiece alone": (sentencepiece, "tokenizer.model alone"),
    "tokenizer is a pipe": (fifo, "no tokenizer.json"),
    "no weights": (remove(WEIGHTS), "no *.safetensors"),
    "pickle": (write(WEIGHTS, b"\x80\x04\x95" + bytes(100)), "is a pickle, which is never loaded"),
    "zipped pickle": (write(WEIGHTS, b"PK\x03\x04" + bytes(100)), "is a pickle, which is never loaded"),
    "empty weights": (write(WEIGHTS, b""), "0 bytes"),
    "header longer than the file": (write(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"), "claims a header of"),
    "header is not JSON": (write(WEIGHTS, struct.pack("<Q", 2) + b"{{"), "not JSON"),
    "data cut off": (lambda folder: os.truncate(folder / WEIGHTS, 500_000), "cut or padded"),
    "data beyond the file": (with_header(beyond_the_file), "overlaps"),
    "tensors overlap": (with_header(overlapping), "overlaps"),
    "negative offset": (with_header(negative), "not [begin, end]"),
    "shape of another size": (with_header(other_shape), "of shape [3, 3]"),
    "unknown dtype": (with_header(other_dtype), "unknown dtype"),
    "link to a secret": (link("chat_template.jinja", "/etc/passwd"), "leads out of the directory"),
    "link to weights elsewhere": (link(WEIGHTS, "/etc/passwd"), "leads out of the directory"),
    "link in a circle": (link("tokenizer.json", "tokenizer.json"), "tokenizer.json"),
}


@pytest.fixture(scope="module")
def sums(standing_api):
    steps = [{"i": 0, "type": "sum", "content": "one and one"}]
    standing_api.import_traces({"prompt": "1+1=", "steps": steps, "final_answer": "2"})
    standing_api.build("sums", validation_fraction=0, test_fraction=0)
    return standing_api


@pytest.mark.parametrize(("broken", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_directory_is_refused_with_the_file_and_the_fault(sums, broken_copy, request, broken, told):
    folder = broken_copy(sums.models / request.node.callspec.id.replace(" ", "-"), broken)
    problem = sums.post("/api/v1/runs", {"dataset": "sums", "base_model": str(folder)}).problem(422)
    assert problem["errors"][0]["field"] == "base_model"
    assert told in problem["detail"]
    assert sums.get("/api/v1/runs").json["items"] == []


def test_link_within_the_directory_is_followed(api, broken_copy):
    def moved(folder: Path) -> None:
        (folder / "blobs").mkdir()
        (folder / WEIGHTS).rename(folder / "blobs" / "weights")
        (folder / WEIGHTS).symlink_to("blobs/weights")

    api.import_traces({"prompt": "1", "steps": [{"i": 0, "type": "a", "content": "b"}], "final_answer": "2"})
    api.build("sums", validation_fraction=0, test_fraction=0)
    folder = broken_copy(api.models / "moved", moved)
    spec = {"dataset": "sums", "base_model": str(folder), "evaluate": None}
    assert api.post("/api/v1/runs", spec).status == 202


def test_directory_behind_a_link_that_leaves_the_allowed_folders_is_not_read(sums, stories):
    (sums.models / "elsewhere").symlink_to(stories)
    problem = sums.post("/api/v1/runs", {"dataset": "sums", "base_model": str(sums.models / "elsewhere")}).problem(422)
    assert "TUNIX_RT_MODEL_ROOTS" in problem["detail"]


def test_path_that_climbs_out_of_the_allowed_folders_is_not_read(sums):
    path = f"{sums.models}/../../../../../../etc"
    problem = sums.post("/api/v1/runs", {"dataset": "sums", "base_model": path}).problem(422)
    assert "TUNIX_RT_MODEL_ROOTS" in problem["detail"]


def test_nothing_of_a_refused_directory_is_stored(api, broken_copy):
    api.import_traces({"prompt": "1", "steps": [{"i": 0, "type": "a", "content": "b"}], "final_answer": "2"})
    api.build("sums", validation_fraction=0, test_fraction=0)
    before = sorted(api.home.rglob("blobs/sha256/*/*"))
    folder = broken_copy(api.models / "linked", link("chat_template.jinja", "/etc/passwd"))
    api.post("/api/v1/runs", {"dataset": "sums", "base_model": str(folder)}).problem(422)
    assert sorted(api.home.rglob("blobs/sha256/*/*")) == before
