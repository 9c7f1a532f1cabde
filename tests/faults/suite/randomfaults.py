"""Faults drawn from a seed, of which each ends after a while: at most one at a time per server or service."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from redis.exceptions import RedisError
from tests.faults.proxy import COMMIT, LPUSH, FaultProxy
from tests.faults.suite.cluster import Cluster, ensure_up
from tests.faults.suite.services import Service
from tests.servers.processes import Server

Act = Callable[[], object]


@dataclass(frozen=True)
class Fault:
    """What is done to whom, and what ends it after a while; `weight` is how often it is drawn."""

    name: str
    victim: object
    strike: Act
    undo: Act = lambda: None
    longest_s: float = 0.0
    weight: int = 1


class RandomFaults:
    """Strikes about every `every_s`, and undoes in time what does not end by itself; `struck` counts by name."""

    def __init__(self, cluster: Cluster, seed: int, every_s: float) -> None:
        self._random = random.Random(seed)
        self._every_s = every_s
        self._faults = faults_of(cluster)
        self._under_way: list[tuple[float, Fault]] = []
        self._next = time.monotonic()
        self.struck: Counter[str] = Counter()

    def go_on(self) -> None:
        """Do what is due by now."""
        now = time.monotonic()
        for end, fault in list(self._under_way):
            if end <= now:
                fault.undo()
                self._under_way.remove((end, fault))
        if now >= self._next:
            self._next = now + self._random.uniform(0.5, 1.5) * self._every_s
            self._strike()

    def _strike(self) -> None:
        busy = {id(fault.victim) for _, fault in self._under_way}
        free = [fault for fault in self._faults if id(fault.victim) not in busy]
        [fault] = self._random.choices(free, weights=[fault.weight for fault in free])
        fault.strike()
        self.struck[fault.name] += 1
        if fault.longest_s:
            self._under_way.append((time.monotonic() + self._random.uniform(0.2, 1) * fault.longest_s, fault))


def faults_of(cluster: Cluster) -> list[Fault]:
    """All that happens by chance."""
    redis, postgres, minio = cluster.redis, cluster.postgres, cluster.minio
    found = [fault for service in cluster.services for fault in _of_service(service)]
    for server in (redis, postgres, minio):
        found += _of_server(server)
    for proxy, name in (
        (cluster.redis_proxy, "Redis"),
        (cluster.postgres_proxy, "Postgres"),
        (cluster.minio_proxy, "MinIO"),
    ):
        found += _of_proxy(proxy, name)
    found.append(Fault("FLUSHALL", redis, lambda: _flush(cluster), weight=6))
    found.append(
        Fault("cut after COMMIT", cluster.postgres_proxy, lambda: cluster.postgres_proxy.cut_after(COMMIT), weight=4)
    )
    found.append(Fault("cut after LPUSH", cluster.redis_proxy, lambda: cluster.redis_proxy.cut_after(LPUSH), weight=2))
    return found


def _of_service(service: Service) -> list[Fault]:
    if "trainer" not in service.name and service.name != "evaluator":
        return [Fault(f"kill {service.name}", service, service.kill_all)]
    return [
        Fault("kill a job's child", service, service.kill_jobs, weight=6),
        Fault("kill a worker", service, service.kill_all),
        Fault("kill a worker's main process", service, service.kill_main),
        Fault("kill a worker's pool", service, service.kill_pool),
        Fault("freeze a worker", service, service.freeze, service.thaw, longest_s=9.0, weight=2),
    ]


def _of_server(server: Server) -> list[Fault]:
    name = type(server).__name__
    return [
        Fault(f"kill {name}", server, server.kill, lambda: ensure_up(server), longest_s=4.0),
        Fault(f"restart {name}", server, server.restart),
        Fault(f"freeze {name}", server, lambda: _freeze_for(server, 4.0), lambda: ensure_up(server), longest_s=4.0),
    ]


def _of_proxy(proxy: FaultProxy, name: str) -> list[Fault]:
    return [
        Fault(f"reset connections to {name}", proxy, proxy.reset_all, weight=2),
        Fault(f"swallow what goes to {name}", proxy, proxy.black_hole, proxy.heal, longest_s=4.0),
        Fault(f"refuse connections to {name}", proxy, proxy.refuse, proxy.heal, longest_s=4.0),
        Fault(f"slow down {name}", proxy, lambda: proxy.latency(0.05), proxy.heal, longest_s=4.0),
    ]


def _freeze_for(server: Server, seconds: float) -> None:
    """Thawed by a clock of its own: whoever is to thaw it may ask it something before, and then waits for ever."""
    frozen = server.freeze()
    clock = threading.Timer(seconds, _thaw, [frozen])
    clock.daemon = True
    clock.start()


def _thaw(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _flush(cluster: Cluster) -> None:
    """Where Redis does not answer there is nothing to flush."""
    with suppress(RedisError):
        cluster.redis_client.flushall()
