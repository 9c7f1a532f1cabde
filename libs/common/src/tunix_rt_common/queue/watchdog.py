"""Ends a worker whose consumer has gone deaf, seen from beside it; whoever runs the process starts it again.

Deaf is a consumer that takes nothing for a long time though messages wait and nothing is being handled. Where Redis
does not answer the watchdog either, nothing is known and nothing is done. Not covered: a message whose handling hangs;
that is what leases are for.
"""

import logging
import os
import threading
import time
from collections.abc import Callable

from celery.worker import state
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)

LOOK_S = 5.0
PATIENCE_S = 60.0
"""More than a consumer takes to notice by itself that its connection is half open."""
REDIS_TIMEOUT_S = 5.0
DEAF = 3


def watch(url: str, key: str, ended: threading.Event) -> None:
    """Look after this process's consumer of the list `key` until it has ended; a deaf one ends the process at once."""
    redis = Redis.from_url(
        url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
    )
    with redis:
        if stays_deaf(lambda: _waiting(redis, key), ended):
            logger.critical("messages wait and none was taken for %g s: ending, to be started again", PATIENCE_S)
            os._exit(DEAF)


def stays_deaf(count_waiting: Callable[[], int], ended: threading.Event) -> bool:
    """Whether messages waited, untaken, for longer than patience lasts; False when the worker ended before."""
    taken, since = -1, time.monotonic()
    while not ended.wait(LOOK_S):
        now_taken = sum(state.total_count.values())
        if now_taken != taken or state.reserved_requests or not count_waiting():
            taken, since = now_taken, time.monotonic()
        elif time.monotonic() - since > PATIENCE_S:
            return True
    return False


def _waiting(redis: Redis, key: str) -> int:
    try:
        return int(redis.llen(key))
    except (RedisError, OSError):
        return 0
