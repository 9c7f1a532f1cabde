"""The HTTP application: what is mounted where."""

from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from tunix_rt_api import errors, health, scrape, web
from tunix_rt_api.datasets import endpoints as datasets
from tunix_rt_api.deps import Services
from tunix_rt_api.evaluations import endpoints as evaluations
from tunix_rt_api.imports import endpoints as imports
from tunix_rt_api.models import endpoints as models
from tunix_rt_api.observation import Observation
from tunix_rt_api.plans import endpoints as plans
from tunix_rt_api.runs import endpoints as runs
from tunix_rt_api.traces import endpoints as traces
from tunix_rt_api.tunix import endpoints as tunix
from tunix_rt_common.db.session import Database
from tunix_rt_common.metrics import registry_over
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import ArtifactStore
from tunix_rt_common.version import CODE_VERSION

DESCRIPTION = "Reasoning traces into better models, with proof that they are better."


def create_app(settings: Settings, database: Database, store: ArtifactStore) -> FastAPI:
    """The application over an open database and store."""
    app = FastAPI(title="Tunix RT", version=CODE_VERSION, description=DESCRIPTION, redoc_url=None)
    app.state.services = Services(settings=settings, database=database, store=store)
    app.state.metrics = registry_over(database)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(settings.allowed_hosts))
    app.add_middleware(Observation)
    errors.install(app)
    app.include_router(health.router)
    app.include_router(scrape.router)
    for noun in (traces, datasets, runs, plans, imports, evaluations, models):
        app.include_router(noun.router, prefix="/api/v1")
    app.include_router(tunix.router, prefix="/api")
    web.install(app)
    return app
