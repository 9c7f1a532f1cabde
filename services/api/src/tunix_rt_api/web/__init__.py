"""The pages: what the JSON endpoints answer, as HTML rendered on the server."""

from pathlib import Path

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from tunix_rt_api.web import errors, pages

STATIC = Path(__file__).parent / "static"


def install(app: FastAPI) -> None:
    """Mount pages and static files; errors of pages become pages. Comes after `errors.install` of the API."""
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.include_router(pages.router)
    errors.install(app)
