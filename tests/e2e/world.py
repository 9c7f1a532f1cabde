"""Tunix RT as its users meet it, over HTTP: bytes go out exactly as a test gives them."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import uvicorn

from tunix_rt_api.main import create_app
from tunix_rt_common.db.session import open_database
from tunix_rt_common.queue import open_queue
from tunix_rt_common.relay import Relay
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import open_store
from tunix_rt_common.world import World
from tunix_rt_embedded.world import open_world
from tunix_rt_registry import worker as registry

ENDED = {"succeeded", "failed", "quarantined", "cancelled"}
ENDED_THERE = {"completed", "failed", "timeout", "cancelled"}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What the server said to one request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()

    def problem(self, status: int) -> dict[str, Any]:
        """The problem document of a refusal that a user can act on."""
        assert self.status == status, self.text
        assert self.headers["content-type"] == "application/problem+json"
        document = dict(self.json)
        assert document["status"] == status
        assert document["detail"]
        assert "Traceback" not in self.text
        assert len(self.body) < 4000, "a refusal does not repeat what was sent"
        return document


class Server:
    """A served API, and the few requests that most tests begin with."""

    def __init__(self, url: str, home: Path) -> None:
        self.url, self.home = url, home
        self.models = home.parent / "models"
        self._address = urlsplit(url).netloc

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, *, patience_s: float = 60
    ) -> Answer:
        """Send bytes, or anything else as JSON; `path` goes out unescaped."""
        content = body if body is None or isinstance(body, bytes) or hasattr(body, "__next__") else json.dumps(body)
        connection = http.client.HTTPConnection(self._address, timeout=patience_s)
        try:
            connection.request(method, path, content, JSON if headers is None else headers)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **query: Any) -> Answer:
        return self.ask("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.ask("POST", path, body)

    def import_lines(self, content: bytes, **query: Any) -> dict[str, Any]:
        answer = self.ask("POST", f"/api/v1/traces/batch?{urlencode(query)}", content, {}, patience_s=600)
        assert answer.status == 200, answer.text
        return dict(answer.json)

    def import_traces(self, *traces: dict[str, Any], **query: Any) -> dict[str, Any]:
        return self.import_lines("\n".join(map(json.dumps, traces)).encode(), **query)

    def build(self, name: str, **spec: Any) -> dict[str, Any]:
        """A dataset, once its build has ended."""
        accepted = self.post("/api/v1/datasets", {"name": name, **spec})
        assert accepted.status == 202, accepted.text
        return self.wait(accepted.headers["location"], ENDED)

    def start(self, dataset: str, base_model: object, **spec: Any) -> str:
        """Where an accepted run is."""
        accepted = self.post("/api/v1/runs", {"dataset": dataset, "base_model": str(base_model), **spec})
        assert accepted.status == 202, accepted.text
        return accepted.headers["location"]

    def wait(self, path: str, ended: set[str] = ENDED, patience_s: float = 240) -> dict[str, Any]:
        """What is at a path, once its state is one of `ended`."""
        deadline = time.monotonic() + patience_s
        while (found := self.get(path).json).get("state", found.get("status")) not in ended:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        return dict(found)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """Serve an application on a free port; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


@contextmanager
def serving_api(home: Path, *, builds: bool = True, **settings: Any) -> Iterator[Server]:
    """API and registry, and nobody who trains: what is accepted stays queued. So do datasets where nobody builds.

    Runs may start from model directories in `models`, beside `home`.
    """
    found = Settings(home=home, model_roots=(home.parent / "models",), **settings)
    database = open_database(found.resolved_database_url)
    database.migrate()
    store, queue = open_store(found.resolved_artifacts_url), open_queue("inline://")
    relay, stop = Relay(database, queue, found), threading.Event()
    serve = (World(found, database, store), queue, stop)
    threads = [threading.Thread(target=relay.run, args=(stop,))]
    threads += [threading.Thread(target=registry.serve, args=serve)] if builds else []
    for thread in threads:
        thread.start()
    with listening(create_app(found, database, store)) as url:
        yield Server(url, home)
    stop.set()
    relay.wake()
    for thread in threads:
        thread.join(10)
    database.close()


@contextmanager
def serving_world(home: Path) -> Iterator[Server]:
    """Everything, as `tunix-rt up` serves it: runs are trained by real children."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNIX_RT_HOME", str(home))
        with open_world() as url:
            yield Server(url, home)
