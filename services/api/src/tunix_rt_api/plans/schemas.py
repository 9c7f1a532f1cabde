"""What the plan endpoints answer."""

from datetime import datetime
from uuid import UUID

from pydantic import BaseModel

from tunix_rt_common.plans import Plan
from tunix_rt_common.specs import PlanSpec


class PlanOut(BaseModel):
    """A plan that was asked for: `progress` says what is being done, `plan` is there once `state` is succeeded.

    A run that does not fit has a plan too: its `refusal` says why, and what would.
    """

    plan_id: UUID
    state: str
    progress: str | None
    failure: str | None
    plan: Plan | None
    spec: PlanSpec
    created_at: datetime
    finished_at: datetime | None
