"""`python parent.py`: a worker process that supervises one child, there to be killed."""

import threading

from tunix_rt_common.db.session import open_database
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import open_store
from tunix_rt_common.supervisor import ChildJob, Supervisor
from tunix_rt_common.world import World


def main() -> None:
    settings = Settings()
    world = World(settings, open_database(settings.resolved_database_url), open_store(settings.resolved_artifacts_url))
    jobs = {"train": ChildJob("faulty", lambda *_: [])}
    Supervisor(world, jobs, threading.Event()).work_once()


if __name__ == "__main__":
    main()
