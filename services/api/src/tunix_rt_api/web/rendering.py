"""Templates to responses: everything is escaped, and the browser is told to run and load nothing but our own files."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tunix_rt_api.web import formats
from tunix_rt_api.web.charts import interval_bar
from tunix_rt_common.version import CODE_VERSION

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def render(
    template: str, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None, **context: Any
) -> HTMLResponse:
    """The page that a template makes of its context."""
    body = _TEMPLATES.get_template(template).render(context)
    return HTMLResponse(body, status, {**(headers or {}), **SECURITY_HEADERS})


def _templates() -> Environment:
    folder = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=folder, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        byte_size=formats.byte_size,
        count=formats.count,
        duration=formats.duration,
        minute=formats.minute,
        moment=formats.moment,
        percent=formats.percent,
        points=formats.points,
        pretty_json=formats.pretty_json,
        short_duration=formats.short_duration,
        short_hash=formats.short_hash,
        short_number=formats.short_number,
    )
    environment.globals.update(code_version=CODE_VERSION, interval_bar=interval_bar)
    return environment


_TEMPLATES = _templates()
