"""Plans: what a run would need, before it is started."""

import time
from collections.abc import Callable

from tunix_rt.connection import Connection, quoted
from tunix_rt.types import TERMINAL_STATES, PlannedRun
from tunix_rt_common.specs import PlanSpec


class Plans:
    """The plans of a server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def create(self, spec: PlanSpec) -> PlannedRun:
        """Ask for a plan; what the spec leaves unset is the server's to choose."""
        return self._connection.order("/plans", PlannedRun, spec.model_dump(mode="json", exclude_unset=True))

    def get(self, plan_id: str) -> PlannedRun:
        """One plan."""
        return self._connection.get(f"/plans/{quoted(plan_id)}", PlannedRun)

    def wait(
        self, plan_id: str, *, interval_s: float = 0.3, on_progress: Callable[[str], None] = lambda _: None
    ) -> PlannedRun:
        """Wait until the planning has ended, well or not: look at `plan` and `failure`.

        `on_progress` hears what the server says it is doing.
        """
        while (planned := self.get(plan_id)).state not in TERMINAL_STATES:
            if planned.progress:
                on_progress(planned.progress)
            time.sleep(interval_s)
        return planned
