"""A real `tunix-rt up` for tests, and small things to run on it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tunix_rt.client import Client
from tunix_rt.synthetic import arithmetic_traces
from tunix_rt.types import RunDetail
from tunix_rt_common.specs import DatasetSpec, EvalSpec, OptimizerSpec, RunSpec, SamplingSpec, SftSpec

START_PATIENCE_S = 60
PATIENCE_S = 240


@dataclass
class Up:
    """A `tunix-rt up` in a process tree of its own."""

    home: Path
    process: subprocess.Popen[bytes]
    url: str

    def client(self) -> Client:
        return Client(self.url)

    def kill_tree(self) -> None:
        """kill -9 the server; its children have to notice by themselves."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def start_up(home: Path) -> Up:
    environment = os.environ | {"TUNIX_RT_HOME": str(home), "TUNIX_RT_LEASE_S": "8"}
    process = subprocess.Popen([sys.executable, "-m", "tunix_rt", "up", "--port", "0"], env=environment)
    deadline = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):
            server = json.loads((home / "server.json").read_text())
            if server["pid"] == process.pid:
                return Up(home, process, server["url"])
        assert process.poll() is None, "tunix-rt up ended at once"
        time.sleep(0.1)
    raise AssertionError("tunix-rt up did not start")


def build_sums(client: Client, count: int = 600) -> None:
    lines = (json.dumps(record).encode() + b"\n" for record in arithmetic_traces(count, seed=3, digits=2))
    assert client.traces.upload(lines, trace_format="native").rejected_count == 0
    spec = DatasetSpec(name="sums", test_fraction=0.1, validation_fraction=0.05)
    assert client.datasets.wait(client.datasets.build(spec).dataset_id).state == "succeeded"


def small_run(steps: int, *, checkpoint_every: int = 20, model_name: str = "sums") -> RunSpec:
    train = SftSpec(
        max_steps=steps,
        epochs=1000,
        batch_size=32,
        max_tokens=96,
        optimizer=OptimizerSpec(learning_rate=2e-3),
        checkpoint_every=checkpoint_every,
        validate_every=steps,
        seed=5,
    )
    evaluate = EvalSpec(sampling=SamplingSpec(max_new_tokens=48), limit=40)
    return RunSpec(dataset="sums", base_model="tiny", train=train, evaluate=evaluate, model_name=model_name)


def wait_for_end(client: Client, run_id: str) -> RunDetail:
    deadline = time.monotonic() + PATIENCE_S
    while not (run := client.runs.get(run_id)).finished:
        assert time.monotonic() < deadline, f"still {run.state} in {run.stage} at step {run.step}"
        time.sleep(0.2)
    return run


def child_pids(module: str, home: Path) -> list[int]:
    """Processes that run a module as an exec'd child of the server over a home."""
    command, variable, found = f"-m\0{module}\0".encode(), f"TUNIX_RT_HOME={home}\0".encode(), []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and command in (entry / "cmdline").read_bytes():
                found += [int(entry.name)] if variable in (entry / "environ").read_bytes() else []
    return found
