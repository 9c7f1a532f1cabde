"""What the trainer's tests share."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SMALL_RUN = Path(__file__).with_name("smallrun.py")


@pytest.fixture(scope="session")
def small() -> SimpleNamespace:
    """The names of smallrun.py, which also runs as a program of its own, and its `path`."""
    return SimpleNamespace(**runpy.run_path(str(SMALL_RUN)), path=SMALL_RUN)
