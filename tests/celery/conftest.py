"""A fresh lab for each experiment."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.celery.lab import Lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A Redis of its own, with a short visibility timeout."""
    with Lab(tmp_path / "lab") as lab:
        yield lab
