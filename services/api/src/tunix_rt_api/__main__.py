"""`python -m tunix_rt_api`: the API as a process of its own, with a relay for the doorbells that it writes."""

import sys
import threading

import uvicorn

from tunix_rt_api.main import create_app
from tunix_rt_common import telemetry
from tunix_rt_common.service import open_service_queue, run_service, start_collector, start_relay
from tunix_rt_common.settings import Settings
from tunix_rt_common.world import World

GRACE_S = 10


def serve(settings: Settings, stop: threading.Event) -> None:
    """Answer until told to stop; requests under way are finished."""
    world = World.open(settings)
    telemetry.setup("api", world.database)
    start_relay(world, open_service_queue(settings), stop)
    start_collector(world, stop)
    config = uvicorn.Config(
        create_app(settings, world.database, world.store),
        host=settings.host,
        port=settings.port,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run()
    stop.set()


if __name__ == "__main__":
    sys.exit(run_service("api", serve))
