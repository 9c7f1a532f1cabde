"""The registry's worker: serves its queue until it is told to stop."""

import threading

from tunix_rt_common.queue import Queue
from tunix_rt_common.supervisor import Supervisor
from tunix_rt_common.world import World
from tunix_rt_registry.handlers import JOBS


def serve(world: World, queue: Queue, stop: threading.Event) -> None:
    """Handle the registry's messages, one at a time."""
    queue.serve("registry", lambda stopping: Supervisor(world, dict(JOBS), stopping).answer, stop)
