"""`python -m tunix_rt_trainer`: the trainer as a process of its own."""

import sys

from tunix_rt_common.service import run_worker

if __name__ == "__main__":
    sys.exit(run_worker("trainer", "train", "tunix_rt_trainer.handlers:JOBS"))
