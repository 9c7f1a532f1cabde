"""Which server a suite gets: the one that the environment names, else a container, else a local process."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import pytest
from tests.servers import processes

Kind = Literal["postgres", "redis", "minio", "versitygw"]
GIVEN_BY: dict[Kind, str] = {
    "postgres": "TUNIX_RT_TEST_POSTGRES_URL",
    "redis": "TUNIX_RT_TEST_REDIS_URL",
    "minio": "TUNIX_RT_TEST_S3_URL",
    "versitygw": "TUNIX_RT_TEST_SECOND_S3_URL",
}
PROCESSES: dict[Kind, type[processes.Server]] = {
    "postgres": processes.Postgres,
    "redis": processes.Redis,
    "minio": processes.Minio,
    "versitygw": processes.VersityGateway,
}


class Provided(Protocol):
    """A server that answers, whoever runs it. Its bucket, if it is one for S3, is there."""

    @property
    def url(self) -> str:
        """Where it is."""


@dataclass(frozen=True)
class Given:
    """A server that somebody else runs."""

    url: str


def provide(kind: Kind) -> AbstractContextManager[Provided]:
    """A server of a kind, for as long as the block lasts. S3 servers take their credentials from the environment."""
    if url := os.environ.get(GIVEN_BY[kind]):
        return nullcontext(Given(url))
    if engine_answers():
        from tests.servers.containers import run_container

        return run_container(kind)
    return PROCESSES[kind]()


@contextmanager
def s3_credentials() -> Iterator[None]:
    """Credentials in the environment: its own where it names an S3 server, else throwaway ones."""
    given = os.environ.keys() & {GIVEN_BY["minio"], GIVEN_BY["versitygw"]}
    with pytest.MonkeyPatch.context() as patch:
        if not given:
            patch.setenv("AWS_ACCESS_KEY_ID", "tunix-rt-tests")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
            patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield


@cache
def engine_answers() -> bool:
    """Whether there is a Docker engine to talk to."""
    import docker
    from docker.errors import DockerException

    try:
        with docker.from_env(timeout=3) as client:
            return bool(client.ping())
    except DockerException:
        return False
