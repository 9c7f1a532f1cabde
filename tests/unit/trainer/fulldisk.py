"""As a program (`fulldisk.py SCRATCH SIZE`): saves while no file may outgrow a size, as on a full disk, then freely.

Prints as JSON what the first save ended with, what it left in the scratch folder, and the step of the second.
"""

import json
import resource
import runpy
import sys
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

from tunix_rt_common.errors import Unavailable
from tunix_rt_trainer.engine import checkpoints
from tunix_rt_trainer.engine.progress import StepInfo
from tunix_rt_trainer.saving import CheckpointSaver

SMALL = runpy.run_path(str(Path(__file__).with_name("smallrun.py")))


def save_twice(scratch: Path, size_bytes: int) -> dict[str, Any]:
    stories: list[str] = []
    child: Any = SimpleNamespace(story=lambda kind, message, **_: stories.append(kind), leaving=Event())
    saver = CheckpointSaver(child, scratch, SMALL["SPEC"].seed, SMALL["inputs"](SMALL["SPEC"]))
    state = SMALL["fresh_state"](SMALL["SPEC"])
    checkpoints.prepare()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, most))
    try:
        saver.save(StepInfo(2, 100, 0.0), state)
        error = None
    except Unavailable as full:
        error = str(full)
    left = sorted(path.name for path in scratch.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    return {"error": error, "stories": stories, "left": left, "then": saver.save(StepInfo(3, 100, 0.0), state).step}


if __name__ == "__main__":
    print(json.dumps(save_twice(Path(sys.argv[1]), int(sys.argv[2]))))  # noqa: T201
