"""The embedded world: ports, relay, workers and API of one process, started and stopped together."""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

import tunix_rt_evaluator.worker
import tunix_rt_registry.worker
import tunix_rt_trainer.worker
from tunix_rt_api.main import create_app
from tunix_rt_common import jsonlogs, telemetry
from tunix_rt_common.queue import Queue, open_queue
from tunix_rt_common.relay import Relay
from tunix_rt_common.service import start_collector
from tunix_rt_common.settings import Settings
from tunix_rt_common.world import World

logger = logging.getLogger(__name__)

SERVER_FILE = "server.json"
STOP_PATIENCE_S = 15.0
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
WORKERS = (tunix_rt_trainer.worker.serve, tunix_rt_evaluator.worker.serve, tunix_rt_registry.worker.serve)


def embedded_settings() -> Settings:
    """Settings from the environment; a laptop's server may read model directories anywhere its user can."""
    settings = Settings()
    return settings if settings.model_roots else settings.model_copy(update={"model_roots": (Path("/"),)})


@contextmanager
def open_world() -> Iterator[str]:
    """Serve everything on a free loopback port for the length of the block; yields the base URL."""
    settings = embedded_settings()
    listener = bind(settings.host, 0)
    with serving(settings, listener) as server:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http", daemon=True)
        thread.start()
        try:
            yield base_url(listener)
        finally:
            server.should_exit = True
            thread.join(STOP_PATIENCE_S)


def run_server(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve in the foreground until SIGINT or SIGTERM; running children keep a checkpoint and are continued later."""
    jsonlogs.setup("api", settings.log_format)
    listener = bind(settings.host, settings.port)
    address = base_url(listener)
    server_file = settings.home_dir / SERVER_FILE
    with serving(settings, listener) as server:
        server_file.write_text(json.dumps({"url": address, "pid": os.getpid()}))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            on_ready(address)
            server.run(sockets=[listener])
        except KeyboardInterrupt:
            logger.info("told to stop")
        finally:
            server_file.unlink(missing_ok=True)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; `OSError` when the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen()
    return listener


def base_url(listener: socket.socket) -> str:
    """Where a listening socket is reached from this machine."""
    host, port = listener.getsockname()[:2]
    host = LOOPBACK.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def serving(settings: Settings, listener: socket.socket) -> Iterator[uvicorn.Server]:
    """Relay and workers run for the length of the block; the HTTP server is ready to be run."""
    settings.home_dir.mkdir(parents=True, exist_ok=True)
    world, queue = World.open(settings), open_queue(settings.queue_url)
    world.database.migrate()
    telemetry.setup("api", world.database)
    relay = Relay(world.database, queue, world.settings)
    relay.ring_waiting()
    stop = threading.Event()
    threads = _start(world, queue, relay, stop)
    start_collector(world, stop)
    app = create_app(settings, world.database, world.store)
    try:
        yield uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    finally:
        stop.set()
        relay.wake()
        for thread in threads:
            thread.join(STOP_PATIENCE_S)
        listener.close()
        telemetry.shutdown()
        world.database.close()


def _start(world: World, queue: Queue, relay: Relay, stop: threading.Event) -> list[threading.Thread]:
    threads = [threading.Thread(target=relay.run, args=(stop,), name="relay", daemon=True)]
    threads += [
        threading.Thread(target=serve, args=(world, queue, stop), name=serve.__module__.split(".")[0], daemon=True)
        for serve in WORKERS
    ]
    for thread in threads:
        thread.start()
    return threads
