"""The HTTP edge: every error becomes problem+json (RFC 9457) that says what to do."""

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from tunix_rt_common.errors import InvalidInput, TunixError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = "2"
MAX_LISTED = 20
MAX_NAME_CHARS = 80
ADVICE = {
    "missing": "is missing: give it",
    "extra_forbidden": "is no field here: remove it",
    "finite_number": "is not a finite number: give one",
}


def install(app: FastAPI) -> None:
    """Teach the application to answer with problems."""
    app.add_exception_handler(TunixError, _tunix_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _unforeseen)


def problem(
    status: int, detail: str, errors: list[dict[str, str]] | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """A problem document."""
    title = HTTPStatus(status).phrase
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors:
        body["errors"] = errors
    return JSONResponse(body, status, dict(headers or {}), media_type="application/problem+json")


def field_errors(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Field and message of the first validation errors; the offending value is left out, it may be huge or not JSON.

    A list whose members are wrong counts as too short as well: that echo is left out.
    """
    found = [(tuple(error["loc"]), error) for error in errors]
    places = [place for place, _ in found]
    return [
        {"field": _name(place), "message": ADVICE.get(error["type"], str(error["msg"]).removeprefix("Value error, "))}
        for place, error in found[:MAX_LISTED]
        if not (error["type"] == "too_short" and any(_is_within(other, place) for other in places))
    ]


def _is_within(place: tuple[object, ...], outer: tuple[object, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _name(place: tuple[object, ...]) -> str:
    parts = place[1:] if len(place) > 1 and place[0] == "body" else place
    return ".".join(str(part)[:MAX_NAME_CHARS] for part in parts)


async def _tunix_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, TunixError)  # noqa: S101
    named = isinstance(error, InvalidInput) and error.field
    fields = [{"field": named, "message": str(error)}] if named else None
    headers = {"Retry-After": RETRY_AFTER_S} if error.retryable else None
    return problem(error.status, str(error), fields, headers)


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    errors = field_errors(error.errors())
    summary = "; ".join(f"{row['field']}: {row['message']}" for row in errors[:3])
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{summary} (see /docs for what is expected)", errors)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    detail = "no such page: /docs lists what there is" if error.status_code == HTTPStatus.NOT_FOUND else error.detail
    return problem(error.status_code, detail, headers=error.headers)


async def _client_left(request: Request, _: Exception) -> JSONResponse:
    logger.info("the client left in the middle of %s %s", request.method, request.url.path)
    return problem(HTTPStatus.BAD_REQUEST, "the connection broke before the body was complete: send it again")


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    logger.error("unforeseen error in %s %s", request.method, request.url.path, exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "an error on our side; the server's log has the details")
