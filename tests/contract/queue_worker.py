"""`python -m tests.contract.queue_worker`: a trainer as deployed, whose children are `faulty` ones."""

import sys

from tunix_rt_common.service import run_worker
from tunix_rt_common.supervisor import ChildJob


def lead_nowhere(world, session, claim, result):
    return []


JOBS = {"train": ChildJob("faulty", lead_nowhere)}

if __name__ == "__main__":
    sys.exit(run_worker("trainer", "train", "tests.contract.queue_worker:JOBS"))
