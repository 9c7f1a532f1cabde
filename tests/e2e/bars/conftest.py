from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.bars.server import Up, start_up


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    server = start_up(tmp_path / "home")
    yield server
    if server.process.poll() is None:
        server.process.terminate()
        server.process.wait(30)
