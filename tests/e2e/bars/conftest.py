from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.bars.cluster import Cluster, running_cluster
from tests.e2e.bars.server import Up, start_up
from tests.servers.fresh import fresh_prefix
from tests.servers.provide import Provided


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    server = start_up(tmp_path / "home")
    yield server
    if server.process.poll() is None:
        server.process.terminate()
        server.process.wait(30)


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str, redis_url: str, minio_prefix: str) -> Iterator[Cluster]:
    """The four services over real servers."""
    with running_cluster(tmp_path / "cluster", postgres_url, redis_url, minio_prefix) as running:
        yield running


@pytest.fixture
def minio_prefix(minio_server: Provided) -> str:
    return fresh_prefix(minio_server.url)


@pytest.fixture(params=["up", "cluster"])
def world(request: pytest.FixtureRequest) -> Up | Cluster:
    """Tunix RT in one process tree, and as four services."""
    return request.getfixturevalue(request.param)
