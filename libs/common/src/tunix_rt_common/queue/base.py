"""The port that relay and workers speak to."""

import threading
from collections.abc import Callable
from typing import Protocol

from tunix_rt_common.errors import InvalidInput
from tunix_rt_common.messages import Message, QueueName

Handle = Callable[[Message], None]


class Queue(Protocol):
    """Carries messages from the relay to whoever serves their queue."""

    def publish(self, message: Message) -> None:
        """Ring; raises `Unavailable` when the broker does not take it."""

    def serve(self, queue: QueueName, handle: Handle, stop: threading.Event) -> None:
        """Call `handle` for each message, one at a time, until `stop` is set. Blocks."""


def open_queue(url: str) -> Queue:
    """The queue behind a URL, by its scheme."""
    if url.startswith("inline://"):
        from tunix_rt_common.queue.inline import InlineQueue

        return InlineQueue()
    raise InvalidInput(f"no queue adapter for {url!r}: use inline://", field="TUNIX_RT_QUEUE_URL")
