import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tunix_rt_common.errors import UnusableModel
from tunix_rt_common.safetensors_header import check_safetensors


def written(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def tensor(begin: object, end: object, dtype: object = "F32", shape: object = (1,)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_library_written_file_is_described(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    arrays = {"b": np.zeros((2, 3), np.float16), "a": np.zeros((0, 4), np.float32), "c": np.array(1.0, np.float32)}
    save_file(arrays, path, metadata={"format": "pt"})
    assert check_safetensors(path) == {"a": ("F32", (0, 4)), "b": ("F16", (2, 3)), "c": ("F32", ())}


@pytest.mark.parametrize(
    ("header", "data", "fault"),
    [
        ({"a": tensor(0, 4), "b": tensor(2, 6)}, bytes(6), "b that overlaps"),
        ({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12), "b that leaves a gap"),
        ({"a": tensor(0, 4)}, bytes(3), "cut or padded"),
        ({"a": tensor(0, 4)}, bytes(5), "cut or padded"),
        ({"a": tensor(0, 8)}, bytes(8), "a 8 bytes"),
        ({"a": tensor(-4, 0)}, bytes(4), r"data_offsets \[-4, 0\]"),
        ({"a": tensor(0, True)}, bytes(4), "data_offsets"),
        ({"a": tensor(0, 4, shape=[-1, -1])}, bytes(4), r"shape \[-1, -1\]"),
        ({"a": tensor(0, 4, shape="1")}, bytes(4), "shape '1'"),
        ({"a": tensor(0, 4, dtype="F33")}, bytes(4), "unknown dtype 'F33'"),
        ({"a": tensor(0, 4, dtype=["F32"])}, bytes(4), "unknown dtype"),
        ({"a": tensor(0, 4) | {"extra": 1}}, bytes(4), "without exactly"),
        ({"a": 4}, bytes(4), "without exactly"),
        ([1], b"", "not a JSON object"),
        (b"{not json", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        (b'{"a": 1, "a": 2}', b"", "given twice"),
    ],
)
def test_lying_header_is_refused(tmp_path: Path, header: object, data: bytes, fault: str) -> None:
    with pytest.raises(UnusableModel, match=fault):
        check_safetensors(written(tmp_path / "m.safetensors", header, data))


def test_header_longer_than_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"claims a header of 1099511627776 bytes, but only 2 bytes follow"):
        check_safetensors(written(tmp_path / "m.safetensors", {}, length=2**40))


@pytest.mark.parametrize("content", [b"", b"1234567"])
def test_file_too_short_to_be_anything_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(UnusableModel, match="fewer than a safetensors file begins with"):
        check_safetensors(tmp_path / "m.safetensors")


@pytest.mark.parametrize("content", [pickle.dumps({"a": [1] * 100}), b"PK\x03\x04" + bytes(100)])
def test_pickle_under_another_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(UnusableModel, match=r"m\.safetensors is a pickle, which is never loaded"):
        check_safetensors(tmp_path / "m.safetensors")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match=r"m\.safetensors cannot be read"):
        check_safetensors(tmp_path / "m.safetensors")
