"""Several processes that train one run together, each with devices of its own: the first of them leads.

All run the same program on the same inputs, so they come to the same calls in the same order. What only one may do,
such as writing the model, the leader does. A process alone is its own leader, and waits for nobody.
"""

import threading

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, PyTree

WORD_BYTES = 128
SHUTDOWN_S = 3600
"""How long those who are done wait for the leader to write the model."""


def join(coordinator: str, count: int, index: int) -> None:
    """Become process `index` of `count`; the leader, 0, listens at `coordinator` (host:port). Before any use of JAX."""
    jax.distributed.initialize(coordinator, count, index, shutdown_timeout_seconds=SHUTDOWN_S)


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return bool(jax.process_index() == 0)


def are_several() -> bool:
    """Whether the run is computed by more processes than this one."""
    return bool(jax.process_count() > 1)


def agreed(word: str) -> str:
    """The leader's word, in all processes; it is short."""
    if not are_several():
        return word
    padded = np.frombuffer(word.encode().ljust(WORD_BYTES, b"\0"), np.uint8)
    told: np.ndarray = multihost_utils.broadcast_one_to_all(padded)
    return told.tobytes().rstrip(b"\0").decode()


def whole(tree: PyTree[Array]) -> PyTree[Array]:
    """The arrays put together from the devices of all processes, in the host memory of each; alone, as they are."""
    if not are_several():
        return tree
    return multihost_utils.process_allgather(tree, tiled=True)


class Preemption(threading.Event):
    """Set before the same step in all processes, soon after one of them got a SIGTERM. To be asked once a step."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def is_set(self) -> bool:
        """Whether all leave here."""
        self._asked += 1
        return super().is_set() or bool(multihost_utils.reached_preemption_sync_point(self._asked))
