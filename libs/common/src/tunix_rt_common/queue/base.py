"""The port that relay and workers speak to."""

import threading
from collections.abc import Callable
from typing import Protocol

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.messages import AnyMessage, Message, QueueName

Handle = Callable[[AnyMessage], None]
MakeHandle = Callable[[threading.Event], Handle]
"""Called once in the process that will handle messages, with the event that tells it to leave. Celery's adapter hands
it to a spawned process, so there it has to be picklable: a function or dataclass of a module."""


class Queue(Protocol):
    """Carries messages from the relay to whoever serves their queue."""

    def publish(self, message: Message) -> None:
        """Ring; raises `Unavailable` when the broker does not take it."""

    def serve(self, queue: QueueName, make_handle: MakeHandle, stop: threading.Event) -> None:
        """Handle the queue's messages, one at a time, until `stop` is set. Blocks."""


def open_queue(url: str, secret: str | None = None) -> Queue:
    """The queue behind a URL, by its scheme; `secret` signs what travels through a broker."""
    if url.startswith("inline://"):
        from tunix_rt_common.queue.inline import InlineQueue

        return InlineQueue()
    if url.startswith(("redis://", "rediss://")):
        from tunix_rt_common.queue.celery import CeleryQueue

        if not secret:
            raise InvalidInput(
                "messages on Redis are signed: set TUNIX_RT_QUEUE_SECRET to one long random text for all services",
                field="TUNIX_RT_QUEUE_SECRET",
            )
        return CeleryQueue(url, secret)
    raise InvalidInput(
        f"no queue adapter for {url.partition('://')[0]!r}: use inline:// or redis://HOST:PORT/DB",
        field="TUNIX_RT_QUEUE_URL",
    )
