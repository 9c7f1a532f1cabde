"""Write .env for docker compose: the example, with a random value wherever it leaves one empty."""

import os
import re
import secrets
from pathlib import Path

EXAMPLE = Path(__file__).with_name(".env.example")


def filled(example: str) -> str:
    """The example with 256 random bits, in hexadecimal, behind every `NAME=`."""
    return re.sub(r"(?m)^\w+=$", lambda empty: empty[0] + secrets.token_hex(32), example)


def main() -> None:
    """Write ./.env, readable by its owner alone; a file that exists is left as it is and fails."""
    descriptor = os.open(".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(filled(EXAMPLE.read_text()))


if __name__ == "__main__":
    main()
