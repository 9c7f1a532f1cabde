"""Every request measured and, where it is work, traced. A `traceparent` that the client sends is continued."""

import time
from typing import Any

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunix_rt_common import metrics, telemetry

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
UNTRACED = ("/healthz", "/readyz", "/metrics", "/static")
UNMATCHED = "unmatched"


class Observation:
    """ASGI middleware; belongs outside of every other, so that refusals are seen too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request; labels and names hold its route and never its path, which anybody can invent."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].startswith(UNTRACED):
            await self._measured(scope, receive, send)
        else:
            with telemetry.span(_method(scope), parent=_traceparent(scope), kind=SpanKind.SERVER) as span:
                status = await self._measured(scope, receive, send)
                _describe(span, scope, status)

    async def _measured(self, scope: Scope, receive: Receive, send: Send) -> int:
        status, started = 500, time.monotonic()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            labels = (_method(scope), _route(scope), str(status))
            metrics.HTTP_REQUEST_DURATION.labels(*labels).observe(time.monotonic() - started)
        return status


def _describe(span: Span, scope: Scope, status: int) -> None:
    span.update_name(f"{_method(scope)} {_route(scope)}")
    attributes: dict[str, Any] = {
        "http.request.method": _method(scope),
        "http.route": _route(scope),
        "http.response.status_code": status,
    }
    span.set_attributes(attributes)
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "OTHER"


def _route(scope: Scope) -> str:
    """The path's template. A route knows only its part of it, what its routers put before is taken from the path."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    own = route.path_format.format(**scope["path_params"])
    prefix = scope["path"].removesuffix(own) if scope["path"].endswith(own) else ""
    return f"{prefix}{route.path_format}"


def _traceparent(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)
