"""`python -m tunix_rt_registry`: the registry as a process of its own."""

import sys

from tunix_rt_common.service import run_worker

if __name__ == "__main__":
    sys.exit(run_worker("registry", "registry", "tunix_rt_registry.handlers:JOBS"))
