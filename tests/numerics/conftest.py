from pathlib import Path

import pytest

from tunix_rt_modeling import huggingface
from tunix_rt_modeling.huggingface import LoadedModel

_DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="session")
def parity_data() -> Path:
    return _DATA / "hf-parity"


@pytest.fixture(scope="session")
def stories_directory() -> Path:
    return _DATA / "models" / "stories260K"


@pytest.fixture(scope="session")
def stories(stories_directory: Path) -> LoadedModel:
    return huggingface.load(stories_directory)
