"""A worker as a process of its own: the trainer, the evaluator, the registry, the relay.

A worker's main process consumes the queue; one spawned process handles messages, rings the doorbells of what it has
written, and answers Prometheus.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from tunix_rt_common import jsonlogs, metrics, telemetry
from tunix_rt_common.errors import InvalidInput, TunixError, Unavailable
from tunix_rt_common.messages import QueueName
from tunix_rt_common.queue import Queue, open_queue
from tunix_rt_common.queue.base import Handle
from tunix_rt_common.relay import Relay
from tunix_rt_common.retention import collect_when_alone
from tunix_rt_common.settings import Settings
from tunix_rt_common.supervisor import Supervisor
from tunix_rt_common.world import World

logger = logging.getLogger(__name__)

START_PATIENCE_S = 60.0
CANNOT_START = 2


@dataclass(frozen=True)
class WorkerHandle:
    """Makes the handler of a service's messages; `jobs` is MODULE:NAME of its table. Picklable."""

    service: str
    jobs: str

    def __call__(self, stopping: threading.Event) -> Handle:
        """Open the world and start what runs beside the handler."""
        settings = Settings()
        jsonlogs.setup(self.service, settings.log_format)
        world = World.open(settings)
        telemetry.setup(self.service, world.database)
        start_relay(world, open_service_queue(settings), stopping)
        if settings.metrics_port:
            metrics.serve(settings.metrics_port, world.database)
        module, _, name = self.jobs.partition(":")
        table = getattr(import_module(module), name)
        return Supervisor(world, dict(table), stopping).answer


def run_worker(service: str, queue_name: QueueName, jobs: str) -> int:
    """Serve a queue until SIGTERM or SIGINT; the process's exit status."""

    def serve(settings: Settings, stop: threading.Event) -> None:
        open_service_queue(settings).serve(queue_name, WorkerHandle(service, jobs), stop)

    return run_service(service, serve)


def run_relay() -> int:
    """Publish doorbells and sweep until SIGTERM or SIGINT; the process's exit status."""

    def serve(settings: Settings, stop: threading.Event) -> None:
        world = World.open(settings)
        telemetry.setup("relay", world.database)
        if settings.metrics_port:
            metrics.serve(settings.metrics_port, world.database)
        start_collector(world, stop)
        Relay(world.database, open_service_queue(settings), settings).run(stop)

    return run_service("relay", serve)


def run_service(service: str, serve: Callable[[Settings, threading.Event], None]) -> int:
    """The edge of a service's main process: signals, logs, a database that is ready, errors in words."""
    settings, stop = Settings(), threading.Event()
    jsonlogs.setup(service, settings.log_format)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        await_ready(World.open(settings), stop)
        logger.info("%s is up", service)
        serve(settings, stop)
    except TunixError as error:
        named = f"{error.field}: " if isinstance(error, InvalidInput) and error.field else ""
        logger.error("%s cannot run: %s%s", service, named, error)
        return CANNOT_START
    finally:
        telemetry.shutdown()
    return 0


def open_service_queue(settings: Settings) -> Queue:
    """The queue that separate processes share."""
    if settings.queue_url.startswith("inline://"):
        raise InvalidInput(
            "inline:// works within one process: run `tunix-rt up`, or set a redis:// URL for separate services",
            field="TUNIX_RT_QUEUE_URL",
        )
    return open_queue(settings.queue_url, settings.queue_secret.get_secret_value() if settings.queue_secret else None)


def start_relay(world: World, queue: Queue, stop: threading.Event) -> None:
    """A relay on a thread of its own, until `stop` is set."""
    relay = Relay(world.database, queue, world.settings)
    threading.Thread(target=relay.run, args=(stop,), name="relay", daemon=True).start()


def start_collector(world: World, stop: threading.Event) -> None:
    """Delete what is past its retention, every `collect_every_s`, on a thread of its own until `stop` is set."""
    threading.Thread(target=_collect, args=(world, stop), name="collector", daemon=True).start()


def _collect(world: World, stop: threading.Event) -> None:
    while not stop.wait(world.settings.collect_every_s):
        try:
            collect_when_alone(world)
        except Unavailable as error:
            logger.warning("what is past its retention stays for now: %s", error)


def await_ready(world: World, stop: threading.Event) -> None:
    """Wait for a database that has our schema and a store that takes blobs; `Unavailable` when they do not come."""
    deadline = time.monotonic() + START_PATIENCE_S
    while not stop.is_set():
        try:
            world.database.check_migrated()
            logger.info("artifact store: %s", world.store.probe())
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("waiting: %s", error)
            stop.wait(1)
        else:
            return


def main(arguments: list[str]) -> int:
    """`migrate`, `relay`, `collect` or `health`: what a deployment runs beside its services."""
    commands = {"migrate": migrate, "relay": run_relay, "collect": collect_now, "health": health}
    if len(arguments) != 1 or arguments[0] not in commands:
        sys.stderr.write(f"usage: python -m tunix_rt_common {'|'.join(commands)}\n")
        return CANNOT_START
    return commands[arguments[0]]()


def migrate() -> int:
    """Bring the database's schema up to date."""
    settings, stop = Settings(), threading.Event()
    jsonlogs.setup("migrate", settings.log_format)
    deadline = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            World.open(settings).database.migrate()
        except Unavailable as error:
            if time.monotonic() > deadline:
                logger.error("%s", error)
                return CANNOT_START
            stop.wait(1)
        else:
            return 0


def collect_now() -> int:
    """Delete what is past its retention, without waiting for the relay to do it."""
    settings = Settings()
    jsonlogs.setup("collect", settings.log_format)
    try:
        if collect_when_alone(World.open(settings)) is None:
            logger.info("another process is collecting already")
    except TunixError as error:
        logger.error("%s", error)
        return CANNOT_START
    return 0


def health() -> int:
    """Whether this machine's worker answers on its metrics port."""
    import urllib.error
    import urllib.request

    port = Settings().metrics_port
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=3) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError) as error:
        sys.stderr.write(f"no worker answers on TUNIX_RT_METRICS_PORT={port}: {error}\n")
        return 1
