"""The queue: a doorbell. Anything on it may be lost, doubled or late."""

from tunix_rt_common.queue.base import Queue, open_queue

__all__ = ["Queue", "open_queue"]
