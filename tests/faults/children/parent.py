"""`python parent.py JOB_ID`: a worker process that supervises one child, there to be killed."""

import sys
import threading
from uuid import UUID

from tunix_rt_common.db.session import open_database
from tunix_rt_common.messages import TrainJob
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import open_store
from tunix_rt_common.supervisor import ChildJob, Supervisor
from tunix_rt_common.world import World


def main(job_id: str) -> None:
    settings = Settings()
    world = World(settings, open_database(settings.resolved_database_url), open_store(settings.resolved_artifacts_url))
    jobs = {"train": ChildJob("faulty", lambda *_: [])}
    Supervisor(world, jobs, threading.Event(), lambda: None).handle(TrainJob(job_id=UUID(job_id)))


if __name__ == "__main__":
    main(sys.argv[1])
