"""`python claimer.py DATABASE_URL JOB_ID…`: once its input closes, claims what it can get and says what it got."""

import sys
from uuid import UUID

from tunix_rt_common import pipeline
from tunix_rt_common.db.session import database_now, open_database


def main(url: str, job_ids: list[str]) -> None:
    database = open_database(url)
    with database.reading() as session:
        database_now(session)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    for job_id in job_ids:
        with database.transaction() as session:
            if pipeline.claim(session, UUID(job_id), "claimer", lease_s=60):
                sys.stdout.write(f"{job_id}\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
