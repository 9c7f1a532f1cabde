"""A server that speaks as vLLM and SGLang do, and misbehaves as a test wants it to."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request and what is answered to it. `times` counts how often this prompt was asked, this time included."""

    server: "CompletionsServer"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.prompt = self.body["prompt"][0]
        with self.server.asking(self):
            self.server.behaviour(self)

    def do_GET(self) -> None:
        self.server.strayed.append(self.path)
        self.reply(200, b"{}")

    def say(self, text: str, finish_reason: str | None = "stop") -> None:
        self.reply(200, json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]}).encode())

    def reply(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class CompletionsServer(ThreadingHTTPServer):
    """Answers every prompt with its first token's number, unless told to behave otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.behaviour: Behaviour = lambda exchange: exchange.say(f"said {exchange.prompt}")
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.asked_at: list[float] = []
        self.times: Counter[int] = Counter()
        self.strayed: list[str] = []
        self.most_at_a_time = 0
        self._now = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @contextmanager
    def asking(self, exchange: Exchange) -> Iterator[None]:
        with self._lock:
            self.bodies.append(exchange.body)
            self.headers.append({name.lower(): value for name, value in exchange.headers.items()})
            self.paths.append(exchange.path)
            self.asked_at.append(time.monotonic())
            self.times[exchange.prompt] += 1
            exchange.times = self.times[exchange.prompt]
            self._now += 1
            self.most_at_a_time = max(self.most_at_a_time, self._now)
        try:
            with suppress(ConnectionError):
                yield
        finally:
            with self._lock:
                self._now -= 1

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is what some tests are about."""


@contextmanager
def completions_server() -> Iterator[CompletionsServer]:
    """Serve on a free port."""
    with CompletionsServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
