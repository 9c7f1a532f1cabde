"""Servers to be asked, and the data to ask them with."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from tests.e2e.world import Server, serving_api, serving_world

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Server]:
    """A fresh API."""
    with serving_api(tmp_path / "home") as server:
        yield server


@pytest.fixture
def idle_api(tmp_path: Path) -> Iterator[Server]:
    """An API that accepts work which nobody does."""
    with serving_api(tmp_path / "home", builds=False) as server:
        yield server


@pytest.fixture(scope="module")
def standing_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One API for all tests of a file that leave nothing behind, or do not care."""
    with serving_api(tmp_path_factory.mktemp("standing") / "home") as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def standing_api_on(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `standing_api`, on each database in turn."""
    with ExitStack() as databases:
        url = None if request.param == "sqlite" else databases.enter_context(database_on_postgres(request))
        home = tmp_path_factory.mktemp("standing") / "home"
        yield databases.enter_context(serving_api(home, database_url=url))


@pytest.fixture(params=["sqlite", "postgresql"])
def idle_api_on(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """As `idle_api`, on each database in turn; three runs of a project may wait."""
    with ExitStack() as databases:
        url = None if request.param == "sqlite" else databases.enter_context(database_on_postgres(request))
        yield databases.enter_context(serving_api(tmp_path / "home", database_url=url, max_waiting_runs=3))


def database_on_postgres(request: pytest.FixtureRequest) -> AbstractContextManager[str]:
    from tests.servers.fresh import fresh_database

    server, template = (request.getfixturevalue(name) for name in ("postgres_server", "postgres_template"))
    return fresh_database(server.url, template)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One whole world for all tests of a file."""
    with serving_world(tmp_path_factory.mktemp("world") / "home") as server:
        yield server


@pytest.fixture(scope="session")
def stories() -> Path:
    """A small real model."""
    return REPOSITORY / "tests" / "data" / "models" / "stories260K"


@pytest.fixture(scope="session")
def broken_copy(stories: Path) -> Callable[[Path, Callable[[Path], object]], Path]:
    """Copy the small model to a folder of its own, and break the copy."""

    def copy(target: Path, broken: Callable[[Path], object]) -> Path:
        shutil.copytree(stories, target, copy_function=shutil.copyfile)
        broken(target)
        return target

    return copy


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The larger sets of real data."""
    folder = Path(os.environ.get("TUNIX_RT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"the shared data are not at {folder}: set TUNIX_RT_SHARED_DATA to their folder")
    return folder
