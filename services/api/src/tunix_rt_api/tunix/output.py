"""Captured output, cut to what an answer may carry."""

from collections.abc import Iterable


def cut_utf8(chunks: Iterable[bytes], max_bytes: int) -> str:
    """The last `max_bytes` of some output, begun at a character's first byte; the end says how a run ended."""
    kept = bytearray()
    for chunk in chunks:
        kept += chunk
        del kept[: max(0, len(kept) - max_bytes - 4)]
    tail = bytes(kept[max(0, len(kept) - max_bytes) :])
    start = next((index for index, byte in enumerate(tail[:3]) if byte & 0xC0 != 0x80), 3)
    text = tail[start:].decode("utf-8", "replace")
    return text if len(text.encode()) <= max_bytes else text.encode()[-max_bytes:].decode("utf-8", "ignore")
