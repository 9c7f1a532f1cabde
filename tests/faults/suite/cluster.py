"""The cluster on one machine: real servers behind fault proxies, real services, and one hand to hurt them all."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import redis
from sqlalchemy import select
from tests.e2e.world import ENDED, JSON, Answer, Server
from tests.faults.proxy import FaultProxy
from tests.faults.suite import crashing
from tests.faults.suite.services import Service
from tests.servers import processes
from tests.servers.processes import LOOPBACK, free_port

from tunix_rt.synthetic import arithmetic_traces
from tunix_rt_common.db.models import Base, JobRecord, RunRecord
from tunix_rt_common.db.session import Database, open_database
from tunix_rt_common.storage import ArtifactStore, open_store

REPOSITORY = Path(__file__).parents[3]
SITE = Path(__file__).parent / "site"
DATASET = "sums"
SECRET = "a-secret-of-the-fault-suite"
TIMES = {
    "TUNIX_RT_LEASE_S": "4",
    "TUNIX_RT_HEARTBEAT_S": "0.5",
    "TUNIX_RT_SWEEP_S": "0.5",
    "TUNIX_RT_DOORBELL_S": "4",
    "TUNIX_RT_RETRY_DELAY_S": "0.02",
    "TUNIX_RT_STOP_GRACE_S": "5",
    "TUNIX_RT_MAX_ATTEMPTS": "40",
    "TUNIX_RT_MAX_STALLED_ATTEMPTS": "6",
}
"""Short, so that recovery is quick; the budgets allow for more faults than a run meets in a year."""
NOT_INHERITED = ("COVERAGE_", "OTEL_", "TUNIX_RT_")
PATIENCE_S = 180.0
POLL_S = 0.1
ASK_PATIENCE_S = 15.0


class Cluster:
    """Servers, proxies and services; `with` starts them, waits until they serve, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home, self.crashes = folder, folder / "home", folder / "crashes"
        self.crashes.mkdir(parents=True)
        self._stack = ExitStack()
        self.accepted: list[str] = []
        """The id of every run that was answered with 202."""
        self.reported: set[str] = set()
        """Violations that one scenario has been blamed for already."""

    def __enter__(self) -> Self:
        with self._stack:
            self._open_servers()
            self._open_services()
            self._make_dataset()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open_servers(self) -> None:
        open_one = self._stack.enter_context
        self.postgres, self.redis, self.minio = (
            open_one(server) for server in (processes.Postgres(), processes.Redis(), processes.Minio())
        )
        self.postgres_proxy, self.redis_proxy, self.minio_proxy = (
            open_one(FaultProxy(LOOPBACK, server.port)) for server in (self.postgres, self.redis, self.minio)
        )
        self.database: Database = open_database(self.postgres.url)
        self._stack.callback(self.database.close)
        self.database.migrate()
        self.store: ArtifactStore = open_store(self.minio.url)
        self.redis_client = open_one(redis.Redis.from_url(self.redis.url))

    def _open_services(self) -> None:
        port = free_port()
        environment = self._environment(port)
        light = "tests.faults.suite.lightjobs"
        commands = {
            "api": ["tunix_rt_api"],
            "relay": ["tunix_rt_common", "relay"],
            "trainer-1": [light, "trainer"],
            "trainer-2": [light, "trainer"],
            "evaluator": [light, "evaluator"],
            "registry": ["tunix_rt_registry"],
        }
        self.services = [Service(name, command, environment, self.folder) for name, command in commands.items()]
        self.api, self.relay, *self.trainers, self.evaluator, self.registry = self.services
        self.http = Server(f"http://{LOOPBACK}:{port}", self.home)
        for service in self.services:
            self._stack.callback(service.close)
            service.start()
        self.wait(self.is_ready, "an API that is ready")

    def _environment(self, port: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        through = {
            "TUNIX_RT_DATABASE_URL": processes.postgres_url(f"{LOOPBACK}:{self.postgres_proxy.port}"),
            "TUNIX_RT_QUEUE_URL": processes.redis_url(f"{LOOPBACK}:{self.redis_proxy.port}"),
            "TUNIX_RT_ARTIFACTS_URL": processes.s3_url(f"{LOOPBACK}:{self.minio_proxy.port}"),
        }
        return inherited | TIMES | through | {
            "TUNIX_RT_HOME": str(self.home),
            "TUNIX_RT_QUEUE_SECRET": SECRET,
            "TUNIX_RT_PORT": str(port),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(SITE)]),
            crashing.FOLDER_VARIABLE: str(self.crashes),
        }  # fmt: skip

    def _make_dataset(self) -> None:
        self.http.import_traces(*arithmetic_traces(200, seed=3, digits=2), trace_format="native")
        built = self.http.build(DATASET, test_fraction=0.2, validation_fraction=0.1)
        assert built["state"] == "succeeded", built

    def is_ready(self) -> bool:
        """Whether the API answers and its database too."""
        answer = self.ask("GET", "/readyz", patience_s=2)
        return answer is not None and answer.status == 200

    def ask(
        self, method: str, path: str, body: Any = None, *, key: str | None = None, patience_s: float = ASK_PATIENCE_S
    ) -> Answer | None:
        """What the API answers; None when it does not, or not in time."""
        headers = JSON | ({"Idempotency-Key": key} if key else {})
        try:
            return self.http.ask(method, path, body, headers, patience_s=patience_s)
        except (OSError, HTTPException):
            return None

    def submit(self, spec: dict[str, Any], *, key: str | None = None) -> str:
        """A run's id, once the API has accepted it: asked again with the same key as long as it does not answer."""
        key = key or uuid4().hex
        self.wait(lambda: self.try_submit(spec, key) is not None, "an API that accepts a run")
        return self.accepted[-1]

    def try_submit(self, spec: dict[str, Any], key: str, patience_s: float = ASK_PATIENCE_S) -> str | None:
        """Ask once; the run's id, or None where the answer was none, or to come back later."""
        answer = self.ask("POST", "/api/v1/runs", spec, key=key, patience_s=patience_s)
        if answer is None or answer.status in {409, 500, 503}:
            return None
        assert answer.status == 202, answer.text
        run_id: str = answer.json["run_id"]
        if run_id not in self.accepted:
            self.accepted.append(run_id)
        return run_id

    def wait(self, condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
        """Poll, and meanwhile start again what has ended; `TimeoutError` with everybody's last words."""
        deadline = time.monotonic() + patience_s
        while not condition():
            self.tend()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {patience_s:.0f} s\n{self.last_words()}")
            time.sleep(POLL_S)

    def tend(self) -> None:
        """What an init system does: start again what should run and does not."""
        for service in self.services:
            if service.wanted and service.has_ended():
                service.start()

    def heal(self) -> None:
        """Take all faults back, and wait until everything runs and serves."""
        crashing.disarm_all(self.crashes)
        for server in (self.postgres, self.redis, self.minio):
            ensure_up(server)
        for proxy in (self.postgres_proxy, self.redis_proxy, self.minio_proxy):
            proxy.heal()
        for service in self.services:
            service.thaw()
            service.wanted = True
        self.wait(self.is_ready, "an API that is ready again")

    def run(self, run_id: str) -> RunRecord:
        """A run's row."""
        with self.database.reading() as session:
            return session.get_one(RunRecord, UUID(run_id))

    def jobs(self, run_id: str) -> list[JobRecord]:
        """A run's jobs, first to last."""
        return self.rows(JobRecord, JobRecord.run_id == UUID(run_id))

    def rows(self, kind: type[Base], *where: Any) -> list[Any]:
        """Rows of a table, in the order of its key, past the proxy."""
        with self.database.reading() as session:
            return list(session.scalars(select(kind).where(*where).order_by(*kind.__table__.primary_key)))

    def all_ended(self, run_ids: list[str]) -> bool:
        """Whether no run of these goes on."""
        wanted = RunRecord.id.in_(map(UUID, run_ids))
        return all(run.state in ENDED for run in self.rows(RunRecord, wanted))

    def arm(self, point: str, **how: Any) -> None:
        """Arm a crash point."""
        crashing.arm(self.crashes, point, **how)

    def has_struck(self, point: str) -> bool:
        """Whether a process has got to an armed point."""
        return crashing.has_struck(self.crashes, point)

    def last_words(self) -> str:
        """The end of every service's log."""
        return "\n".join(f"--- {service.name}\n{service.tail()}" for service in self.services)


def ensure_up(server: processes.Server) -> None:
    """Thaw a frozen server and start a dead one."""
    if server._ended():
        server.start()
    else:
        server.thaw()
