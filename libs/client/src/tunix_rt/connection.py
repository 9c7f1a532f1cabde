"""HTTP as the resources need it: typed answers, pages, streams, and errors that say what to do."""

import ipaddress
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx2
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from tunix_rt.errors import ApiError, ClientError, FieldError, ServerAway, UnexpectedAnswer

T = TypeVar("T")
Params = Mapping[str, str | int | None]

API = "/api/v1"
PAGE_SIZE = 200
TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
PATIENT_TIMEOUT = httpx2.Timeout(3600.0, connect=5.0)
"""Where a server stores or reads gigabytes before it answers."""
ORDER_PAUSES_S = (0.2, 1.0)
TRY_LATER = frozenset({HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT})


class Page(BaseModel):
    """Some items of a list, and where the next ones begin."""

    model_config = ConfigDict(extra="ignore")
    items: list[object]
    next_cursor: str | None


class Connection:
    """One server; all calls raise `ApiError`, `ServerAway` or `UnexpectedAnswer`."""

    def __init__(self, base_url: str, *, transport: httpx2.BaseTransport | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        url = _checked(self.base_url)
        self._http = httpx2.Client(
            base_url=self.base_url + API, timeout=TIMEOUT, transport=transport, trust_env=not _is_loopback(url.host)
        )

    def close(self) -> None:
        """Close the sockets."""
        self._http.close()

    def get(self, path: str, kind: type[T], params: Params | None = None) -> T:
        """Read one document."""
        return self._send(kind, "GET", path, params=_given(params))

    def send(
        self,
        method: str,
        path: str,
        kind: type[T],
        body: object = None,
        params: Params | None = None,
        *,
        patient: bool = False,
    ) -> T:
        """Send one JSON document, read one; patiently where the server has much to look at before it answers."""
        timeout = PATIENT_TIMEOUT if patient else TIMEOUT
        return self._send(kind, method, path, json=body, params=_given(params), timeout=timeout)

    def order(self, path: str, kind: type[T], body: object) -> T:
        """Ask for something to be made: once, however often the connection breaks before the answer is here."""
        headers = {"Idempotency-Key": uuid4().hex}
        for pause_s in ORDER_PAUSES_S:
            try:
                return self._send(kind, "POST", path, json=body, headers=headers)
            except ServerAway:
                time.sleep(pause_s)
        return self._send(kind, "POST", path, json=body, headers=headers)

    def upload(self, path: str, kind: type[T], chunks: Iterable[bytes], params: Params | None = None) -> T:
        """Send bytes as they come, without holding them; read one document."""
        headers = {"Content-Type": "application/x-ndjson"}
        return self._send(kind, "POST", path, content=iter(chunks), params=_given(params), headers=headers)

    def put_file(self, path: str, chunks: Iterable[bytes]) -> None:
        """Send the bytes of a file, without holding them."""
        headers = {"Content-Type": "application/octet-stream"}
        with self._translated():
            response = self._http.request("PUT", path, content=iter(chunks), headers=headers, timeout=PATIENT_TIMEOUT)
        if not response.is_success:
            raise _refusal(response)

    def pages(self, path: str, kind: type[T], params: Params | None = None, *, limit: int | None = None) -> Iterator[T]:
        """Yield the items of a list, page after page, at most `limit`; pages are fetched as they are needed."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            page = self.get(path, Page, {**(params or {}), "limit": size, "cursor": cursor})
            yield from (self._understood(kind, item) for item in page.items)
            cursor = page.next_cursor
            left = None if left is None else left - len(page.items)
            if cursor is None:
                return

    @contextmanager
    def stream(self, path: str, params: Params | None = None) -> Iterator[Iterator[bytes]]:
        """Open a download; its bytes are read as they are asked for."""
        request = self._http.build_request("GET", path, params=_given(params))
        with self._translated(), closing(self._http.send(request, stream=True, follow_redirects=True)) as response:
            if not response.is_success:
                response.read()
                raise _refusal(response)
            yield response.iter_bytes()

    def _send(self, kind: type[T], method: str, path: str, **request: Any) -> T:
        with self._translated():
            response = self._http.request(method, path, **request)
        if not response.is_success:
            raise _refusal(response)
        try:
            return self._understood(kind, response.json())
        except ValueError as error:
            raise UnexpectedAnswer(f"{self.base_url} does not answer like Tunix RT: check TUNIX_RT_API_URL") from error

    def _understood(self, kind: type[T], answer: object) -> T:
        try:
            return TypeAdapter(kind).validate_python(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UnexpectedAnswer(
                f"the answer of {self.base_url} does not fit this client ({where}: {first['msg']}): "
                "use the same version of Tunix RT on both sides"
            ) from error

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx2.RequestError as error:
            reason = str(error) or type(error).__name__
            raise ServerAway(
                f"no answer from {self.base_url} ({reason}): start a server with `tunix-rt up`, "
                "or set TUNIX_RT_API_URL to one that runs"
            ) from error


def quoted(reference: str) -> str:
    """A name as one segment of a path."""
    return quote(reference, safe="@")


def _checked(base_url: str) -> httpx2.URL:
    try:
        url = httpx2.URL(base_url)
    except httpx2.InvalidURL as error:
        raise ClientError(f"{base_url!r} is not a URL ({error}): write it like http://127.0.0.1:8321") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise ClientError(f"{base_url!r} is not the URL of a server: write it like http://127.0.0.1:8321")
    return url


def _is_loopback(host: str) -> bool:
    """Whether the host is this machine, which no proxy stands in front of."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _given(params: Params | None) -> dict[str, str | int]:
    return {key: value for key, value in (params or {}).items() if value is not None}


def _refusal(response: httpx2.Response) -> ClientError:
    body = _problem(response)
    detail = str(body.get("detail") or f"the server answered {response.status_code} to {response.request.url.path}")
    if response.status_code in TRY_LATER:
        return ServerAway(detail)
    rows = body.get("errors")
    errors = [FieldError(str(row.get("field")), str(row.get("message"))) for row in _dicts(rows)]
    return ApiError(response.status_code, str(body.get("title") or response.reason_phrase), detail, errors)


def _dicts(rows: object) -> list[dict[str, object]]:
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _problem(response: httpx2.Response) -> dict[str, object]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
