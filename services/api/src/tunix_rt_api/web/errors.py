"""Errors of pages are pages: the same problem document, told in HTML. The API keeps problem+json."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from tunix_rt_api.web.rendering import render
from tunix_rt_common.errors import TunixError

Handler = Callable[[Request, Any], Response | Awaitable[Response]]

MACHINE_PATHS = ("/api", "/healthz", "/readyz", "/openapi.json")


def install(app: FastAPI) -> None:
    """Put a page around each answer of the API's error handlers."""
    for kind in (TunixError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _as_page(app.exception_handlers[kind]))


def _as_page(tell: Handler) -> Handler:
    async def tell_in_html(request: Request, error: Exception) -> Response:
        told = tell(request, error)
        answer = told if isinstance(told, Response) else await told
        if _is_for_machines(request.url.path):
            return answer
        headers = {name: text for name, text in answer.headers.items() if not name.startswith("content-")}
        return render("error.html", answer.status_code, headers, problem=json.loads(bytes(answer.body)))

    return tell_in_html


def _is_for_machines(path: str) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in MACHINE_PATHS)
