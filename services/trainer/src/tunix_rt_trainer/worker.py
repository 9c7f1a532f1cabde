"""The trainer's worker: serves its queue until it is told to stop. Holds no JAX; its children do."""

import threading

from tunix_rt_common.queue import Queue
from tunix_rt_common.supervisor import Supervisor
from tunix_rt_common.world import World
from tunix_rt_trainer.handlers import JOBS


def serve(world: World, queue: Queue, stop: threading.Event) -> None:
    """Handle training messages, one run at a time."""
    queue.serve("train", lambda stopping: Supervisor(world, dict(JOBS), stopping).answer, stop)
