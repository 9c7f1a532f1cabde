"""Whose turn it is: which waiting job a free worker takes.

It is the database's choice, not the queue's: first the project with the fewest running jobs of these kinds, then the
one that was served longest ago, then priority, then age. So a project with ten thousand waiting jobs and one with a
single job get every other worker, whatever their priorities say.
"""

import logging
from collections.abc import Collection
from datetime import datetime
from functools import cache
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tunix_rt_common.db.models import JobRecord, ProjectShareRecord
from tunix_rt_common.db.session import DatabaseClock
from tunix_rt_common.messages import JobKind
from tunix_rt_common.states import CLAIMABLE, JobState

logger = logging.getLogger(__name__)


def due(now: datetime | ColumnElement[datetime]) -> tuple[ColumnElement[bool], ...]:
    """Jobs that a worker may take."""
    unwanted = or_(JobRecord.cancel_requested_at.is_not(None), JobRecord.deadline_at <= now)
    return JobRecord.state.in_(CLAIMABLE), JobRecord.not_before <= now, unwanted.is_not(True)


def next_job(session: Session, kinds: Collection[JobKind]) -> UUID | None:
    """The job whose turn it is, locked where the database can; jobs that others are taking are passed over."""
    return session.scalar(_turn(), {"kinds": kinds})


@cache
def _turn() -> Select[UUID]:
    """Built once: SQLAlchemy takes longer to put this together than Postgres to answer it."""
    of_kinds = JobRecord.kind.in_(bindparam("kinds", expanding=True))
    running = (
        select(JobRecord.project, func.count().label("jobs"))
        .where(JobRecord.state == JobState.RUNNING, of_kinds)
        .group_by(JobRecord.project)
        .subquery()
    )
    share = and_(ProjectShareRecord.project == JobRecord.project, ProjectShareRecord.kind == JobRecord.kind)
    turn = (
        select(JobRecord.id)
        .outerjoin(running, running.c.project == JobRecord.project)
        .outerjoin(ProjectShareRecord, share)
        .where(of_kinds, *due(DatabaseClock()))
        .order_by(
            func.coalesce(running.c.jobs, 0),
            ProjectShareRecord.claimed_at.nulls_first(),
            JobRecord.priority.desc(),
            JobRecord.not_before,
            JobRecord.id,
        )
    )
    return turn.limit(1).with_for_update(skip_locked=True, of=JobRecord)


def note_served(session: Session, project: str, kind: str, now: datetime) -> None:
    """The project has just been served; whoever writes its first row at the same moment means the same."""
    mine = (ProjectShareRecord.project == project, ProjectShareRecord.kind == kind)
    served = update(ProjectShareRecord).where(*mine).values(claimed_at=now).returning(ProjectShareRecord.project)
    if session.scalar(served) is not None:
        return
    try:
        with session.begin_nested():
            session.add(ProjectShareRecord(project=project, kind=kind, claimed_at=now))
    except IntegrityError:
        logger.debug("project %s was served twice at once", project)
