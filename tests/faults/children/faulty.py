"""`python -m faulty`: children that end in every way there is; the job's payload says which.

`ready` in a payload names a file that the child makes, with its process id in it, when it has begun.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tunix_rt_common import pipeline
from tunix_rt_common.child import Child, ToldToLeave, run_child
from tunix_rt_common.errors import UnusableData

FOREVER_S = 60.0
NOISE = bytes(range(256)) * 4096
NOISE_TIMES = 5
BIG_NUMBERS = list(range(200_000))


def succeed(child: Child) -> dict[str, Any]:
    child.progress(0, 2)
    child.story("halfway", "half of it is done", part=1)
    child.progress(2, 2, loss=0.5)
    return {"made": "it"}


def blame_the_user(child: Child) -> dict[str, Any]:
    raise UnusableData("no row is short enough", field="train.max_tokens")


def run_out_of_memory(child: Child) -> dict[str, Any]:
    raise MemoryError("RESOURCE_EXHAUSTED")


def stumble(child: Child) -> dict[str, Any]:
    raise RuntimeError("a bug in the job")


def crash(child: Child) -> dict[str, Any]:
    child.progress(3)
    os.abort()


def exit_without_result(child: Child) -> dict[str, Any]:
    os._exit(0)


def hang(child: Child) -> dict[str, Any]:
    time.sleep(FOREVER_S)
    return {}


def ignore_sigterm(child: Child) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _ready(child)
    return hang(child)


def leave_when_told(child: Child) -> dict[str, Any]:
    _ready(child)
    if child.leaving.wait(FOREVER_S):
        raise ToldToLeave
    return {}


def finish_when_told(child: Child) -> dict[str, Any]:
    _ready(child)
    child.leaving.wait(FOREVER_S)
    return {"made": "it in the last moment"}


def freeze(child: Child) -> dict[str, Any]:
    """Stuck in native code that holds the interpreter's lock: no thread of ours runs any more."""
    _ready(child)
    ctypes.PyDLL(None).sleep(int(FOREVER_S))
    return {}


def write_under_the_claim(child: Child) -> dict[str, Any]:
    """What a child does that publishes for itself; the test makes another claim before `go` is there."""
    _ready(child)
    while not Path(child.claim.payload["go"]).exists():
        time.sleep(0.01)
    with child.database.transaction() as session:
        pipeline.hold(session, child.claim)
        pipeline.tell(session, child.claim, "checkpoint", "written by a stale owner")
    return {}


def make_noise(child: Child) -> dict[str, Any]:
    for _ in range(NOISE_TIMES):
        os.write(1, NOISE)
        os.write(2, NOISE[::-1])
    return {}


def report_garbage(child: Child) -> dict[str, Any]:
    pipe = int(os.environ["TUNIX_RT_REPORT_FD"])
    for line in (b"not json\n", b"\xff\xfe\n", b'{"say": "shout"}\n', b'{"say": "progress", "step": "x"}\n', b"\n"):
        os.write(pipe, line)
    child.progress(1)
    return {}


def report_much(child: Child) -> dict[str, Any]:
    child.story("big", "x" * 1_000_000)
    return {"numbers": BIG_NUMBERS}


def report_half_a_line(child: Child) -> dict[str, Any]:
    os.write(int(os.environ["TUNIX_RT_REPORT_FD"]), b'{"say": "result", "resu')
    os._exit(0)


def _ready(child: Child) -> None:
    aside = Path(child.claim.payload["ready"] + ".aside")
    aside.write_text(str(os.getpid()))
    aside.rename(child.claim.payload["ready"])


WAYS = {
    way.__name__: way
    for way in (
        succeed,
        blame_the_user,
        run_out_of_memory,
        stumble,
        crash,
        exit_without_result,
        hang,
        ignore_sigterm,
        leave_when_told,
        finish_when_told,
        freeze,
        write_under_the_claim,
        make_noise,
        report_garbage,
        report_much,
        report_half_a_line,
    )
}


if __name__ == "__main__":
    sys.exit(run_child(lambda child: WAYS[child.claim.payload["way"]](child)))
