"""Making the next items on a thread of its own, so that the device does not wait for the host."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Key = TypeVar("Key")
Item = TypeVar("Item")

AHEAD = 2


def prefetched(make: Callable[[Key], Item], keys: Iterable[Key], ahead: int = AHEAD) -> Generator[Item, None, None]:
    """Yield `make(key)` for each key, in order, while up to `ahead` further ones are being made.

    What `make` raises is raised where its item would come. A consumer that stops early waits for one item at most.
    """
    remaining = iter(keys)
    thread = ThreadPoolExecutor(1, "prefetch")
    try:
        waiting = deque(thread.submit(make, key) for key in islice(remaining, ahead))
        while waiting:
            item = waiting.popleft().result()
            waiting.extend(thread.submit(make, key) for key in islice(remaining, 1))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)
