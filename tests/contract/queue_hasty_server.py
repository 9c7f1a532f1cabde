"""`queue_server` with a watchdog that has little patience."""

import sys

from tests.contract import queue_server

from tunix_rt_common.queue import watchdog

watchdog.LOOK_S, watchdog.PATIENCE_S = 0.1, 2.0

if __name__ == "__main__":
    queue_server.main(*sys.argv[1:])
