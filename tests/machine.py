"""The job machine as tests drive it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from tunix_rt_common import pipeline
from tunix_rt_common.db.models import Base, DatasetRecord, EventRecord, JobRecord, OutboxRecord, RunRecord
from tunix_rt_common.db.session import open_database
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import JobKind
from tunix_rt_common.pipeline import Claim, Ending, NewJob, Wish
from tunix_rt_common.settings import Settings
from tunix_rt_common.states import JobState

Row = TypeVar("Row", bound=Base)


class Machine:
    """The job machine on a database (a SQLite file unless given): one transaction per call, so that tests read well."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.settings = Settings(home=home, **{"retry_delay_s": 0} | settings)
        self.database = open_database(self.settings.resolved_database_url)

    def writing(self) -> AbstractContextManager[Session]:
        return self.database.transaction()

    def reading(self) -> AbstractContextManager[Session]:
        return self.database.reading()

    def add_run(self) -> UUID:
        """A run as the API writes it, without its first job."""
        with self.writing() as session:
            dataset = DatasetRecord(id=new_id(), name=f"d-{new_id()}", version=1, spec={})
            run = RunRecord(id=new_id(), spec={}, pins={}, dataset_id=dataset.id, state="queued", stage="train")
            session.add(dataset)
            session.flush()
            session.add(run)
        return run.id

    def submit(self, kind: JobKind = "build_dataset", **fields: Any) -> UUID:
        with self.writing() as session:
            return pipeline.submit(session, NewJob(kind, **fields)).id

    def submit_run(self, **fields: Any) -> UUID:
        """A run's training job."""
        return self.submit("train", run_id=self.add_run(), **fields)

    def try_claim(self, job_id: UUID, *, lease_s: float = 60.0, worker: str = "worker") -> Claim | None:
        with self.writing() as session:
            return pipeline.claim(session, job_id, worker, lease_s)

    def claim(self, job_id: UUID, *, lease_s: float = 60.0) -> Claim:
        claim = self.try_claim(job_id, lease_s=lease_s)
        assert claim, "the job was not there to be claimed"
        return claim

    def claim_next(self, *kinds: JobKind) -> Claim | None:
        with self.writing() as session:
            return pipeline.claim_next(session, kinds or ("train",), "worker", 60.0)

    def heartbeat(self, claim: Claim, step: int | None = None, *, lease_s: float = 60.0) -> Wish | None:
        with self.writing() as session:
            return pipeline.heartbeat(session, claim, step=step, lease_s=lease_s)

    def end(self, claim: Claim, ending: Ending, next_jobs: Sequence[NewJob] = ()) -> None:
        with self.writing() as session:
            pipeline.advance(session, claim, ending, next_jobs)

    def cancel(self, job_id: UUID) -> JobState:
        with self.writing() as session:
            return pipeline.request_cancel(session, job_id)

    def pause(self, job_id: UUID) -> JobState:
        with self.writing() as session:
            return pipeline.request_pause(session, job_id)

    def resume(self, job_id: UUID) -> JobState:
        with self.writing() as session:
            return pipeline.resume(session, job_id)

    def job(self, job_id: UUID) -> JobRecord:
        with self.reading() as session:
            return session.get_one(JobRecord, job_id)

    def run_of(self, job_id: UUID) -> RunRecord:
        with self.reading() as session:
            return session.get_one(RunRecord, session.get_one(JobRecord, job_id).run_id)

    def all(self, kind: type[Row]) -> list[Row]:
        """Every row of a table, in the order of its key."""
        with self.reading() as session:
            return list(session.scalars(select(kind).order_by(*kind.__table__.primary_key)))

    def events(self, job_id: UUID) -> list[EventRecord]:
        return [event for event in self.all(EventRecord) if event.job_id == job_id]

    def states(self, job_id: UUID) -> list[str]:
        """The states that the job has been in, by its story."""
        return [event.to_state for event in self.events(job_id) if event.to_state]

    def doorbells(self, job_id: UUID) -> list[OutboxRecord]:
        return [row for row in self.all(OutboxRecord) if row.job_id == job_id]
