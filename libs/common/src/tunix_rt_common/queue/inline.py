"""A queue inside one process, for the embedded world."""

import queue
import threading

from tunix_rt_common.messages import Message, QueueName
from tunix_rt_common.queue.base import MakeHandle

WAIT_S = 0.2


class InlineQueue:
    """One in-memory line per queue name. What it holds dies with the process, as any doorbell may."""

    def __init__(self) -> None:
        self._lines: dict[QueueName, queue.SimpleQueue[Message]] = {
            "train": queue.SimpleQueue(),
            "evaluate": queue.SimpleQueue(),
            "registry": queue.SimpleQueue(),
        }

    def publish(self, message: Message) -> None:
        """Put the message in its line."""
        self._lines[message.queue].put(message)

    def serve(self, queue_name: QueueName, make_handle: MakeHandle, stop: threading.Event) -> None:
        """Hand over messages in order until told to stop."""
        handle = make_handle(stop)
        while not stop.is_set():
            try:
                message = self._lines[queue_name].get(timeout=WAIT_S)
            except queue.Empty:
                continue
            handle(message)  # type: ignore[arg-type]
