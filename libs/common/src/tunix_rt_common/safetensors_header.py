"""What a safetensors file says it holds, checked in pure Python before any library maps it.

Format: 8 bytes of little-endian header length, a JSON object (name -> dtype, shape, data_offsets), the data. Offsets
count from the end of the header and must tile the data exactly (https://github.com/huggingface/safetensors#format).
"""

import json
import math
from pathlib import Path
from typing import Any, BinaryIO

from tunix_rt_common.errors import UnusableModel

_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
_FLOATS = ("F32", "F16", "BF16")
_MAX_HEADER_BYTES = 100_000_000
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

Tensors = dict[str, tuple[str, tuple[int, ...]]]


def check_safetensors(path: Path) -> Tensors:
    """Return each tensor's (dtype, shape), the dtype as the format spells it ("F32", "BF16", …).

    Reads the header alone: the values may still hold NaN.

    Raises:
        UnusableModel: the file is missing, is something else, is cut short, or its header lies.
    """
    try:
        with path.open("rb") as source:
            return read_tensors(source, path.stat().st_size, path.name)
    except OSError as error:
        raise _unusable(path.name, f"cannot be read ({error.strerror})") from error


def read_tensors(source: BinaryIO, size_bytes: int, file: str) -> Tensors:
    """As `check_safetensors`, of an open file of this size; `file` is its name in messages."""
    header, data_bytes = _read_header(source, size_bytes, file)
    header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(file, name, entry)
        tensors[name] = (dtype, shape)
        spans.append((begin, end, name))
    _check_tiling(file, sorted(spans), data_bytes)
    return tensors


def check_shapes(what: str, found: Tensors, expected: dict[str, tuple[int, ...]]) -> None:
    """Refuse missing, unexpected, misshapen and non-float tensors, naming them; `what` opens the message."""
    advice = "the weights belong to another config"
    if missing := sorted(set(expected) - set(found)):
        raise UnusableModel(f"{what} lacks {_some(missing)}: {advice}")
    if unexpected := sorted(set(found) - set(expected)):
        raise UnusableModel(f"{what} has the unexpected {_some(unexpected)}: {advice}")
    for name, (dtype, shape) in found.items():
        if shape != expected[name]:
            raise UnusableModel(f"{what}: {name} has shape {shape}, the config makes it {expected[name]}: {advice}")
        if dtype not in _FLOATS:
            raise UnusableModel(f"{what}: {name} has dtype {dtype}: save it as one of {', '.join(_FLOATS)}")


def _read_header(source: BinaryIO, size_bytes: int, file: str) -> tuple[dict[str, Any], int]:
    """Return the parsed header and the number of bytes that follow it."""
    prefix = source.read(8)
    left = size_bytes - 8
    length = int.from_bytes(prefix, "little")
    if prefix.startswith(_PICKLE_STARTS):
        raise _unusable(file, "is a pickle, which is never loaded")
    if left < 0:
        raise _unusable(file, f"has {len(prefix)} bytes, fewer than a safetensors file begins with")
    if length > min(left, _MAX_HEADER_BYTES):
        raise _unusable(file, f"claims a header of {length} bytes, but only {left} bytes follow")
    return _parse(file, source.read(length)), left - length


def _parse(file: str, text: bytes) -> dict[str, Any]:
    def refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name is given twice")
        return dict(pairs)

    try:
        header = json.loads(text, object_pairs_hook=refuse_doubles)
    except (ValueError, RecursionError) as error:
        raise _unusable(file, f"has a header that is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise _unusable(file, "has a header that is not a JSON object")
    return header


def _entry(file: str, name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _unusable(file, f"describes tensor {name} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise _unusable(file, f"gives tensor {name} the unknown dtype {dtype!r}")
    if not _are_counts(shape):
        raise _unusable(file, f"gives tensor {name} the shape {shape!r}, which is not a list of sizes")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _unusable(file, f"gives tensor {name} the data_offsets {offsets!r}, which are not [begin, end]")
    begin, end = offsets
    if end - begin != math.prod(shape) * _ITEM_BYTES[dtype]:
        raise _unusable(file, f"gives tensor {name} {end - begin} bytes, which is not {dtype} of shape {shape}")
    return dtype, tuple(shape), begin, end


def _are_counts(value: object) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_tiling(file: str, spans: list[tuple[int, int, str]], data_bytes: int) -> None:
    position = 0
    for begin, end, name in spans:
        if begin != position:
            fault = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise _unusable(file, f"has a tensor {name} that {fault} (byte {begin}, expected {position})")
        position = end
    if position != data_bytes:
        raise _unusable(file, f"describes {position} bytes of tensors but holds {data_bytes}: it was cut or padded")


def _unusable(file: str, fault: str) -> UnusableModel:
    return UnusableModel(f"{file} {fault}: copy the file again, or save the model as safetensors")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
