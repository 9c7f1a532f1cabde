"""`python claimer.py DATABASE_URL WORKER JOB_ID…`: claims what it can get once standard input closes; prints the ids."""

import sys
from uuid import UUID

from tunix_rt_common import pipeline
from tunix_rt_common.db.session import open_database


def main(url: str, worker: str, job_ids: list[str]) -> None:
    database = open_database(url)
    with database.reading() as session:
        pipeline.expired(session)
    print("ready", flush=True)
    sys.stdin.read()
    for job_id in job_ids:
        with database.transaction() as session:
            if pipeline.claim(session, UUID(job_id), worker, lease_s=60):
                print(job_id, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
