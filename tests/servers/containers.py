"""The servers as containers, thrown away afterwards; imported only where a Docker engine answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from testcontainers.core.container import DockerContainer
from tests.servers.fresh import make_bucket
from tests.servers.processes import (
    POSTGRES_FLAGS,
    POSTGRES_PASSWORD,
    POSTGRES_USER,
    REDIS_FLAGS,
    gateway_root,
    minio_root,
    postgres_url,
    redis_url,
    s3_url,
)
from tests.servers.provide import Given, Kind
from tests.servers.ready import answers, wait_until

START_TIMEOUT_S = 120


@dataclass(frozen=True)
class Image:
    """What to run, where it listens, and the URL of a server at an address."""

    name: str
    port: int
    url: Callable[[str], str]
    command: tuple[str, ...]
    environment: Callable[[], dict[str, str]] = dict


def _postgres_root() -> dict[str, str]:
    return {"POSTGRES_USER": POSTGRES_USER, "POSTGRES_PASSWORD": POSTGRES_PASSWORD, "POSTGRES_DB": "postgres"}


IMAGES: dict[Kind, Image] = {
    "postgres": Image("postgres:15", 5432, postgres_url, ("postgres", *POSTGRES_FLAGS), _postgres_root),
    "redis": Image("redis:7", 6379, redis_url, ("redis-server", *REDIS_FLAGS, "--enable-debug-command", "yes")),
    "minio": Image("quay.io/minio/minio:RELEASE.2025-09-07T16-13-09Z", 9000, s3_url, ("server", "/data"), minio_root),
    "versitygw": Image(
        "versity/versitygw:v1.8.0",
        7070,
        s3_url,
        ("--port", ":7070", "posix", "--sidecar", "/srv", "/mnt"),
        gateway_root,
    ),
}


@contextmanager
def run_container(kind: Kind) -> Iterator[Given]:
    """A server of a kind, once it answers."""
    image = IMAGES[kind]
    container = DockerContainer(image.name).with_exposed_ports(image.port).with_envs(**image.environment())
    with container.with_command(list(image.command)) as running:
        url = image.url(f"{running.get_container_host_ip()}:{running.get_exposed_port(image.port)}")
        wait_until(lambda: answers(url), f"an answer from {image.name}", START_TIMEOUT_S)
        if url.startswith("s3:"):
            make_bucket(url)
        yield Given(url)
