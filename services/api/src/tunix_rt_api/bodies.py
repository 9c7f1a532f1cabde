"""Request bodies: JSON objects of bounded size, decoded strictly before any endpoint sees them."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from tunix_rt_api.strictjson import parse_object
from tunix_rt_common.errors import InvalidInput

MAX_SPEC_BYTES = 1024 * 1024
MAX_TRACE_BYTES = 24 * 1024 * 1024

_UTF8_MARK = b"\xef\xbb\xbf"


class JsonRequest(Request):
    """A request that reads no more than `max_bytes`, and only one strict object."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        super().__init__(request.scope, request.receive)
        self._max_bytes = max_bytes

    async def body(self) -> bytes:
        """The bytes as they were sent."""
        if not hasattr(self, "_body"):
            content = bytearray()
            async for chunk in self.stream():
                content += chunk
                _check_size(len(content), self._max_bytes)
            self._body = bytes(content)
        return self._body

    async def json(self) -> Any:
        """The body's object."""
        if not hasattr(self, "_object"):
            self._object = parse_object((await self.body()).removeprefix(_UTF8_MARK))
        return self._object


class JsonRoute(APIRoute):
    """A route whose body, where its endpoint takes one, is a JSON object and says so."""

    max_bytes: ClassVar[int] = MAX_SPEC_BYTES

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler behind the check."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            _check_headers(request, self.max_bytes)
            read = JsonRequest(request, self.max_bytes)
            await _check_body(read)
            return await handle(read)

        return checked


class TraceRoute(JsonRoute):
    """A route whose body may hold the largest trace."""

    max_bytes = MAX_TRACE_BYTES


def refuse_compressed(request: Request) -> None:
    """Refuse a body that unpacks to something else: nobody knows to how much."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body is compressed: send it uncompressed")


def _check_headers(request: Request, max_bytes: int) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be JSON: send it with Content-Type: application/json"
        )
    announced = request.headers.get("content-length", "0")
    _check_size(int(announced) if announced.isdecimal() else 0, max_bytes)
    refuse_compressed(request)


def _check_size(size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise HTTPException(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body is larger than {max_bytes >> 20} MiB: send less (traces may go as lines to "
            "/api/v1/traces/batch, which has no limit)",
            {"Connection": "close"},
        )


async def _check_body(request: JsonRequest) -> None:
    if not await request.body():
        raise InvalidInput("the body is empty: send a JSON object", field="body")
    try:
        await request.json()
    except InvalidInput as error:
        raise InvalidInput(f"the body cannot be read: {error}", field="body") from error
