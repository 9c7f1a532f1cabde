"""The queue on Redis through Celery: a doorbell that may ring twice or never.

Messages are acknowledged when their handling starts, since the database owns retries: a late acknowledgement would
start every job again that outlives the visibility timeout. There is no result backend; states are rows. Handling
happens in one spawned pool process, so that whatever it does leaves the consumer's event loop responsive. What Celery
hears of a message is written by us (`envelope`); whether its consumer still hears is watched from beside (`watchdog`).
"""

import hashlib
import hmac
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from celery import Celery, signals
from celery.worker import WorkController
from celery.worker import state as worker_state
from kombu import Queue as KombuQueue
from kombu.exceptions import OperationalError
from prometheus_client import Counter
from pydantic import ValidationError
from redis.exceptions import RedisError

from tunix_rt_common import metrics
from tunix_rt_common.errors import InvalidInput, Unavailable
from tunix_rt_common.messages import Message, QueueName, decode
from tunix_rt_common.queue import watchdog
from tunix_rt_common.queue.base import Handle, MakeHandle
from tunix_rt_common.queue.envelope import TASK, TRANSPORT

logger = logging.getLogger(__name__)

PREFIX = "tunix-rt:"
NUDGE_S = 0.5
ORPHANED = 1
QUEUES: tuple[QueueName, ...] = ("train", "evaluate", "registry")
CONFIG: dict[str, Any] = {
    "broker_transport": TRANSPORT,
    "broker_transport_options": {
        "visibility_timeout": 900,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 8,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "retry_on_timeout": False,
        "max_connections": 50,
        "global_keyprefix": PREFIX,
    },
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_pool_acquire_timeout": 5.0,
    "task_publish_retry": False,
    "task_serializer": "json",
    "event_serializer": "json",
    "accept_content": ["json"],
    "task_ignore_result": True,
    "task_store_errors_even_if_ignored": False,
    "result_backend": None,
    "task_create_missing_queues": False,
    "task_queues": [KombuQueue(name) for name in QUEUES],
    "task_default_queue": "registry",
    "worker_pool": "prefork",
    "worker_concurrency": 1,
    "worker_pool_start_method": "spawn",
    "worker_proc_alive_timeout": 60,
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_send_task_events": False,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "worker_enable_remote_control": False,
    "enable_utc": True,
}
"""One configuration for every service: a visibility timeout, say, is only as long as the shortest on its Redis."""
QUIET = {"without_mingle": True, "without_gossip": True, "without_heartbeat": True}
"""Workers have nothing to tell each other."""

DROPPED = Counter(
    "tunix_rt_doorbells_dropped",
    "Messages that none of us signed, or of a kind that this version does not know",
    ["reason"],
    registry=metrics.REGISTRY,
)


class BellApp(Celery):
    """A Celery application with one task. It pickles with its handler's factory: a spawned pool process builds it."""

    def __init__(
        self, *args: Any, secret: str = "", make_handle: MakeHandle | None = None, main_pid: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.secret = secret
        self.make_handle = make_handle
        self.main_pid = main_pid
        self.handle: Handle | None = None
        self.stopping = threading.Event()
        self.task(self._ring, name=TASK, shared=False, lazy=False, acks_late=False, max_retries=0, ignore_result=True)

    def __reduce_keys__(self) -> dict[str, Any]:
        """What a spawned process needs beside the configuration."""
        inherited: dict[str, Any] = super().__reduce_keys__()
        return inherited | {"secret": self.secret, "make_handle": self.make_handle, "main_pid": os.getpid()}

    def sign(self, body: str) -> str:
        """HMAC-SHA256 of a message: who may write to Redis may not thereby give orders."""
        return hmac.new(self.secret.encode(), body.encode(), hashlib.sha256).hexdigest()

    def prepare(self) -> Handle:
        """The handler, built once per process; whatever keeps it from being built passes through."""
        if self.handle is None:
            if self.make_handle is None:
                raise RuntimeError("this application publishes: serve() builds one that handles")
            self.handle = self.make_handle(self.stopping)
        return self.handle

    def _ring(self, body: str, signature: str) -> None:
        if not hmac.compare_digest(self.sign(body).encode(), signature.encode()):
            _drop("unsigned", "is TUNIX_RT_QUEUE_SECRET the same for all services?", body)
            return
        try:
            message = decode(body)
        except ValidationError:
            _drop("unknown", "do all services run the same version?", body)
            return
        handle = self.prepare()
        signal.signal(signal.SIGTERM, lambda *_: self.stopping.set())
        handle(message)


def _drop(reason: str, question: str, body: str) -> None:
    DROPPED.labels(reason).inc()
    logger.error("dropped an %s message (%s): %.300s", reason, question, body)


class CeleryQueue:
    """Publishes to Redis and serves from it."""

    def __init__(self, url: str, secret: str) -> None:
        self._url = url
        self._app = self._build(secret)

    def publish(self, message: Message) -> None:
        """One LPUSH."""
        body = message.model_dump_json()
        arguments = {"body": body, "signature": self._app.sign(body)}
        try:
            self._app.send_task(TASK, kwargs=arguments, queue=message.queue, ignore_result=True)
        except (OperationalError, RedisError, OSError) as error:
            raise Unavailable(f"Redis does not take messages ({error}): they wait in the outbox") from error

    def serve(self, queue: QueueName, make_handle: MakeHandle, stop: threading.Event) -> None:
        """Consume until told to stop: what is being handled then is told to leave, and waited for."""
        app = self._build(self._app.secret, make_handle)
        worker = app.WorkController(queues=[queue], hostname=f"{queue}@{os.uname().nodename}-{os.getpid()}", **QUIET)
        worker_state.should_stop = None
        ended = threading.Event()
        _start_thread("celery-stop", _stop_worker, worker, stop, ended)
        _start_thread("watchdog", watchdog.watch, self._url, PREFIX + queue, ended)
        try:
            worker.start()
        finally:
            ended.set()
        if worker.exitcode and not stop.is_set():
            raise Unavailable(f"the Celery worker of queue {queue!r} ended with status {worker.exitcode}: restart it")

    def _build(self, secret: str, make_handle: MakeHandle | None = None) -> BellApp:
        if not self._url.partition("://")[2]:
            raise InvalidInput("the queue URL names no host: use redis://HOST:PORT/DB", field="TUNIX_RT_QUEUE_URL")
        serves = make_handle is not None
        app = BellApp("tunix-rt", broker=self._url, secret=secret, make_handle=make_handle, set_as_current=serves)
        app.conf.update(CONFIG)
        return app


def _start_thread(name: str, target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, name=name, daemon=True).start()


def _stop_worker(worker: WorkController, stop: threading.Event, ended: threading.Event) -> None:
    """Once told to stop, take no more, and tell the pool process until it has left: it may have just taken one."""
    while not stop.wait(NUDGE_S):
        if ended.is_set():
            return
    worker_state.should_stop = 0
    while not ended.is_set():
        for pid in _pool_pids(worker):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        ended.wait(NUDGE_S)


def _pool_pids(worker: WorkController) -> Sequence[int]:
    pool = getattr(worker, "pool", None)
    return pool.info["processes"] if pool and pool._pool else ()


@signals.setup_logging.connect(weak=False)
def _leave_logging_alone(**_: Any) -> None:
    """A receiver of this signal keeps Celery from configuring the root logger."""


@signals.worker_process_init.connect(weak=False)
def _prepare(**_: Any) -> None:
    """Open the handler's world before the first message, in the pool process.

    From here on this process dies with the main process. Where that one was killed earlier, it ends by itself.
    """
    from celery import current_app

    app = current_app._get_current_object()
    if isinstance(app, BellApp):
        if os.getppid() != app.main_pid:
            os._exit(ORPHANED)
        app.prepare()
