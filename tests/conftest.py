"""What every suite may stand on: a migrated database in a file, and a job machine over it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
"""What tests compile they run once or twice, and it compiles in two thirds of the time; the long form optimises."""

if TYPE_CHECKING:
    from tests.machine import Machine
    from tests.servers.provide import Provided


@pytest.fixture(scope="session", autouse=True)
def one_compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All that is compiled in a session is kept for its other processes, which have homes of their own."""
    folder = tmp_path_factory.getbasetemp()
    session = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(session / "compiled"))
        yield


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database; tests get copies, which is faster than migrating."""
    from tunix_rt_common.db.session import open_database

    file = tmp_path_factory.mktemp("migrated") / "tunix-rt.db"
    database = open_database(f"sqlite:///{file}")
    database.migrate()
    database.close()
    return file


@pytest.fixture(scope="session")
def open_machine(migrated_file: Path) -> Callable[..., "Machine"]:
    """Opens a machine with a fresh database in a folder; the caller closes its database."""
    from tests.machine import Machine

    def open_in(home: Path, **settings: Any) -> "Machine":
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(migrated_file, home)
        return Machine(home, **settings)

    return open_in


@pytest.fixture(params=["sqlite", "postgresql"])
def open_machine_on(
    request: pytest.FixtureRequest, open_machine: Callable[..., "Machine"]
) -> Iterator[Callable[..., "Machine"]]:
    """As `open_machine`, on each dialect in turn."""
    with ExitStack() as databases:

        def open_on_postgres(home: Path, **settings: Any) -> "Machine":
            from tests.servers.fresh import fresh_database

            server, template = (request.getfixturevalue(name) for name in ("postgres_server", "postgres_template"))
            url = databases.enter_context(fresh_database(server.url, template))
            return open_machine(home, database_url=url, **settings)

        yield open_machine if request.param == "sqlite" else open_on_postgres


@pytest.fixture
def machine_on(tmp_path: Path, open_machine_on: Callable[..., "Machine"]) -> Iterator["Machine"]:
    """A job machine on each dialect in turn."""
    opened = open_machine_on(tmp_path / "home")
    yield opened
    opened.database.close()


@pytest.fixture
def machine(tmp_path: Path, open_machine: Callable[..., "Machine"]) -> Iterator["Machine"]:
    opened = open_machine(tmp_path / "home")
    yield opened
    opened.database.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["Provided"]:
    """A Postgres for the whole session. Who wants to hurt one starts his own from `tests.servers.processes`."""
    from tests.servers.provide import provide

    with provide("postgres") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator["Provided"]:
    """A Redis for the whole session."""
    from tests.servers.provide import provide

    with provide("redis") as server:
        yield server


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, for us and for child processes."""
    from tests.servers.provide import s3_credentials

    with s3_credentials():
        yield


@pytest.fixture(scope="session")
def minio_server(s3_credentials: None) -> Iterator["Provided"]:
    """A MinIO with a bucket for the whole session."""
    from tests.servers.provide import provide

    with provide("minio") as server:
        yield server


@pytest.fixture(scope="session")
def second_s3_server(s3_credentials: None) -> Iterator["Provided"]:
    """Another S3 server: what holds for both is S3, and not MinIO."""
    from tests.servers.provide import provide

    with provide("versitygw") as server:
        yield server


@pytest.fixture(scope="session")
def postgres_template(postgres_server: "Provided") -> Iterator[str]:
    """The name of a migrated, empty database on the session's Postgres."""
    from tests.servers.fresh import migrated_template

    with migrated_template(postgres_server.url) as name:
        yield name


@pytest.fixture
def postgres_url(postgres_server: "Provided", postgres_template: str) -> Iterator[str]:
    """A migrated, empty database of the test's own."""
    from tests.servers.fresh import fresh_database

    with fresh_database(postgres_server.url, postgres_template) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: "Provided") -> str:
    """An empty Redis."""
    from tests.servers.fresh import flush

    flush(redis_server.url)
    return redis_server.url


@pytest.fixture(params=["minio_server", "second_s3_server"])
def s3_url(request: pytest.FixtureRequest) -> str:
    """An unused prefix, on each S3 server in turn."""
    from tests.servers.fresh import fresh_prefix

    return fresh_prefix(request.getfixturevalue(request.param).url)
