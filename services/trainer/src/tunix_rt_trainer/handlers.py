"""What the trainer does for each kind of job. An exec'd child trains, and its result leads to the next stage; another
plans, and its result is the plan."""

from typing import Any

from sqlalchemy.orm import Session

from tunix_rt_common.db.models import RunRecord
from tunix_rt_common.messages import JobKind
from tunix_rt_common.pipeline import Claim, NewJob
from tunix_rt_common.supervisor import ChildJob
from tunix_rt_common.world import World


def after_training(_: World, session: Session, claim: Claim, result: dict[str, Any]) -> list[NewJob]:
    """Evaluate what was trained, or register it as it is when no evaluation was asked for."""
    run = session.get_one(RunRecord, claim.run_id)
    return [NewJob("evaluate" if run.spec["evaluate"] else "register", payload=result, run_id=run.id)]


def after_planning(*_: object) -> list[NewJob]:
    """A plan stands for itself."""
    return []


JOBS: dict[JobKind, ChildJob] = {
    "train": ChildJob("tunix_rt_trainer.job", after_training),
    "plan": ChildJob("tunix_rt_trainer.planning", after_planning),
}
