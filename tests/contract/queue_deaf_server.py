"""`queue_hasty_server` whose consumer asks Redis for nothing, as after a reconnect that went wrong."""

import sys

from tests.contract import queue_hasty_server

from tunix_rt_common.queue.envelope import Channel

if __name__ == "__main__":
    Channel._brpop_start = lambda self, timeout=None: None
    queue_hasty_server.queue_server.main(*sys.argv[1:])
