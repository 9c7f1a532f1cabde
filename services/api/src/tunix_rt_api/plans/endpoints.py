"""Plans over HTTP."""

from fastapi import APIRouter, Response, status

from tunix_rt_api.bodies import JsonRoute
from tunix_rt_api.deps import ReadingDep, ServicesDep
from tunix_rt_api.idempotency import IdempotencyKey, once
from tunix_rt_api.plans import service
from tunix_rt_api.plans.schemas import PlanOut
from tunix_rt_common.specs import PlanSpec

router = APIRouter(prefix="/plans", tags=["plans"], route_class=JsonRoute)


@router.post("", status_code=status.HTTP_202_ACCEPTED)
def create_plan(spec: PlanSpec, services: ServicesDep, response: Response, key: IdempotencyKey = None) -> PlanOut:
    """Accept a run to be planned: parameters, memory, steps, tokens and time, before anything is trained."""
    with services.database.transaction() as session:
        accepted = once(
            session,
            key,
            spec,
            PlanOut,
            lambda: service.show(session, service.accept_plan(session, services, spec)),
        )
    response.headers["Location"] = f"/api/v1/plans/{accepted.plan_id}"
    return accepted


@router.get("/{plan_id}")
def get_plan(plan_id: str, session: ReadingDep) -> PlanOut:
    """A plan, or how far it has got."""
    return service.show(session, service.find_plan(session, plan_id))
