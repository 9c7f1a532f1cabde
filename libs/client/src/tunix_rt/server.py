"""Finding the server: the one that is named, the one that runs here, or one of our own.

`TUNIX_RT_API_URL` names a server. Without it, a running `tunix-rt up` is found through `server.json` in
`TUNIX_RT_HOME`. Without that, a world is opened in this process, for as long as it is needed.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import httpx2
from pydantic import ValidationError

from tunix_rt.client import Client
from tunix_rt.errors import ClientError, NotInstalled
from tunix_rt_common.settings import Settings

URL_VARIABLE = "TUNIX_RT_API_URL"
HEALTH_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Server:
    """A server that answers at `url`; `own` when it ends with this process, and its workers too."""

    url: str
    own: bool


@contextmanager
def find_server() -> Iterator[Server]:
    """The server to talk to.

    Raises:
        NotInstalled: no server runs, and the embedded world is not installed.
    """
    if url := os.environ.get(URL_VARIABLE, "").strip() or running_server(_home()):
        yield Server(url, own=False)
    else:
        with _embedded_world()() as own_url:
            yield Server(own_url, own=True)


@contextmanager
def connect() -> Iterator[Client]:
    """A client of the server that `find_server` finds."""
    with find_server() as server, Client(server.url) as client:
        yield client


def running_server(home: Path) -> str | None:
    """The URL of the `tunix-rt up` of this home folder, if it answers; a file left behind by a dead one does not."""
    try:
        url = str(json.loads((home / "server.json").read_text("utf-8"))["url"])
        health = httpx2.get(f"{url}/healthz", timeout=HEALTH_TIMEOUT_S, trust_env=False).json()
    except (OSError, ValueError, KeyError, TypeError, httpx2.HTTPError, httpx2.InvalidURL):
        return None
    return url if isinstance(health, dict) and health.get("status") == "ok" else None


def _home() -> Path:
    try:
        return Settings().home_dir
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(map(str, ("TUNIX_RT", *first["loc"]))).upper()
        raise ClientError(f"{name}: {first['msg']}: correct or unset this environment variable") from None


def _embedded_world() -> Callable[[], AbstractContextManager[str]]:
    found = list(entry_points(group="tunix_rt.embedded", name="world"))
    if not found:
        raise NotInstalled(
            "no server runs here, and the embedded world is not installed: `pip install tunix-rt-embedded`, "
            f"or set {URL_VARIABLE} to a server"
        )
    open_world: Callable[[], AbstractContextManager[str]] = found[0].load()
    return open_world
