"""Imports of a size that does not fit into memory."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.e2e.bars.server import start_up

GROWTH_BYTES = 32 << 20
LINE_BYTES = 6_000


def lines(size_bytes: int) -> Iterator[bytes]:
    """Different traces, some megabytes of lines at a time."""
    filling = "and so on " * (LINE_BYTES // 10)
    for start in range(0, size_bytes // LINE_BYTES, 500):
        steps = [{"i": 0, "type": "filling", "content": filling}]
        yield b"".join(
            json.dumps({"prompt": f"{number}?", "steps": steps, "final_answer": "1"}).encode() + b"\n"
            for number in range(start, start + 500)
        )


def peak_bytes_of_an_import(home: Path, size_bytes: int) -> int:
    """The most memory that a fresh server ever held, after one import of this size."""
    up = start_up(home)
    try:
        connection = http.client.HTTPConnection(urlsplit(up.url).netloc, timeout=900)
        connection.request("POST", "/api/v1/traces/batch", lines(size_bytes))
        outcome = json.loads(connection.getresponse().read())
        assert outcome["accepted"] >= size_bytes // LINE_BYTES
        status = Path(f"/proc/{up.process.pid}/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    finally:
        up.kill_tree()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_ten_times_the_import_takes_no_more_memory(tmp_path):
    small = peak_bytes_of_an_import(tmp_path / "small", 30_000_000)
    large = peak_bytes_of_an_import(tmp_path / "large", 300_000_000)
    assert large - small < GROWTH_BYTES, (small, large)
