"""Addresses of OpenAI-compatible servers: how they are written, and which of them may be asked."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from tunix_rt_common.errors import InvalidInput

FIELD = "evaluate.endpoint.url"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_]([a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]+")


def canonical_url(url: str) -> str:
    """Return the one spelling of a base URL; two are equal when they reach the same place.

    Raises:
        ValueError: it is not http or https, has no host, or holds what does not belong into a base URL.
    """
    if not url.isascii() or not url.isprintable() or any(character in url for character in ' \\"<>'):
        raise ValueError("write it in plain characters, without spaces or backslashes")
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("it holds credentials: put the key into TUNIX_RT_ENDPOINT_API_KEYS of the evaluator")
    host = parts.hostname or ""
    if parts.scheme not in _DEFAULT_PORTS or not _HOST.fullmatch(host):
        raise ValueError("write it like http://127.0.0.1:8000/v1: only http and https are spoken")
    if "?" in url or "#" in url:
        raise ValueError("leave out what follows ? or #: it is the address below which /completions lies")
    host = f"[{host}]" if ":" in host else host
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def check_allowed(allowed: Sequence[str], url: str) -> None:
    """Refuse a server that the operator has not named: a spec must not send us anywhere it likes.

    Raises:
        InvalidInput: the URL is not among `allowed`; both are canonical.
    """
    if url not in allowed:
        raise InvalidInput(
            f"no evaluation may ask the server {url[:200]}: name it in TUNIX_RT_ENDPOINT_URLS, a JSON list, of the API "
            "and of the evaluator, or leave evaluate.endpoint out",
            field=FIELD,
        )
