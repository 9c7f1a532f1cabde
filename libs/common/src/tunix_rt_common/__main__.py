"""`python -m tunix_rt_common migrate|relay|collect|health`."""

import sys

from tunix_rt_common.service import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
