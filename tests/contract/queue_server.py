"""`python -m tests.contract.queue_server URL QUEUE FILE BUSY_S`: serves one queue until SIGTERM or SIGINT."""

import os
import signal
import sys
import threading
from pathlib import Path

from tests.contract.queue_recorder import Recorder

from tunix_rt_common.queue import open_queue


def main(url: str, name: str, file: str, busy_s: str) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    open_queue(url, os.environ["QUEUE_SECRET"]).serve(name, Recorder(Path(file), float(busy_s)), stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
