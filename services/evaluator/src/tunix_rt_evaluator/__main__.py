"""`python -m tunix_rt_evaluator`: the evaluator as a process of its own."""

import sys

from tunix_rt_common.service import run_worker

if __name__ == "__main__":
    sys.exit(run_worker("evaluator", "evaluate", "tunix_rt_evaluator.handlers:JOBS"))
