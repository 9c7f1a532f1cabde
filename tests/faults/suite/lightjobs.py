"""`python -m tests.faults.suite.lightjobs trainer|evaluator`: the real workers, whose children are light ones."""

import sys

from tunix_rt_common.messages import JobKind, QueueName
from tunix_rt_common.service import run_worker
from tunix_rt_common.supervisor import ChildJob
from tunix_rt_evaluator.handlers import after_evaluation
from tunix_rt_trainer.handlers import after_training

TRAIN: dict[JobKind, ChildJob] = {"train": ChildJob("tests.faults.suite.lighttrain", after_training)}
EVALUATE: dict[JobKind, ChildJob] = {"evaluate": ChildJob("tests.faults.suite.lightevaluate", after_evaluation)}
SERVED: dict[str, tuple[QueueName, str]] = {"trainer": ("train", "TRAIN"), "evaluator": ("evaluate", "EVALUATE")}


def main(service: str) -> int:
    """Serve until told to stop."""
    queue_name, table = SERVED[service]
    return run_worker(service, queue_name, f"tests.faults.suite.lightjobs:{table}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
