"""The four services as processes of their own, over Postgres, Redis and S3."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
from tests.servers.processes import free_port

from tunix_rt.client import Client

SERVICES = ("api", "trainer", "evaluator", "registry")
START_PATIENCE_S = 90


@dataclass
class Cluster:
    """Running services, by name."""

    home: Path
    url: str
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def client(self) -> Client:
        return Client(self.url)

    def start(self, service: str) -> None:
        environment = os.environ | self.environment | {"TUNIX_RT_HOME": str(self.home / service)}
        self.processes[service] = subprocess.Popen([sys.executable, "-m", f"tunix_rt_{service}"], env=environment)

    def stop(self) -> list[int]:
        """Tell all to stop; how they ended."""
        for process in self.processes.values():
            process.terminate()
        return [process.wait(60) for process in self.processes.values()]


@contextmanager
def running_cluster(home: Path, postgres_url: str, redis_url: str, s3_url: str) -> Iterator[Cluster]:
    """Migrate, start the four services, wait until the API is ready; at the end all of them leave with status 0."""
    port = free_port()
    environment = {
        "TUNIX_RT_DATABASE_URL": postgres_url,
        "TUNIX_RT_QUEUE_URL": redis_url,
        "TUNIX_RT_ARTIFACTS_URL": s3_url,
        "TUNIX_RT_QUEUE_SECRET": "a secret of these tests",
        "TUNIX_RT_PORT": str(port),
        "TUNIX_RT_LEASE_S": "8",
    }
    migrate = [sys.executable, "-m", "tunix_rt_common", "migrate"]
    subprocess.run(migrate, env=os.environ | environment, check=True)
    cluster = Cluster(home, f"http://127.0.0.1:{port}", environment)
    try:
        for service in SERVICES:
            cluster.start(service)
        wait_until_ready(cluster.url)
        yield cluster
    finally:
        ended = cluster.stop()
    assert ended == [0] * len(SERVICES)


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        except httpx2.RequestError:
            pass
        assert time.monotonic() < deadline, "the API did not start"
        time.sleep(0.2)
