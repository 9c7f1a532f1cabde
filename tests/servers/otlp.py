"""A real OTLP collector to send traces to: the OpenTelemetry Collector's own receiver, built from `otlp_receiver/`."""

import hashlib
import json
import logging
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.servers.binaries import TOOLS, NotInstalled, go_program
from tests.servers.processes import Server
from tests.servers.ready import ASKED, PATIENCE_S

logger = logging.getLogger(__name__)

SOURCE = Path(__file__).parent / "otlp_receiver"


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as the collector understood it."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    service: str
    instance: str
    attributes: dict[str, Any]
    links: tuple[str, ...]


class OtlpReceiver(Server):
    """A collector's OTLP/HTTP endpoint. Frozen, it is a black hole: connections open, and nobody ever answers."""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def command(self) -> list[str]:
        return [str(find_receiver()), self.address, str(self.folder / "data" / "traces.jsonl")]

    def spans(self) -> list[ReceivedSpan]:
        """Everything received so far."""
        lines = (self.folder / "data" / "traces.jsonl").read_text().splitlines()
        return [span for line in lines for span in _spans(json.loads(line))]


def find_receiver() -> Path:
    """The built receiver; `NotInstalled` where nobody has built this version of it."""
    if not _program().exists():
        raise NotInstalled("the OTLP receiver is not built: run `make servers`")
    return _program()


def build_receiver() -> None:
    """Build it from the sources beside this file, unless that was done before."""
    if _program().exists():
        return
    logger.info("building the OTLP receiver from source: a minute or two")
    command = [go_program(), "build", "-trimpath", "-ldflags", "-s -w", "-o", str(_program())]
    environment = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "auto", "GOFLAGS": "-mod=readonly"}
    subprocess.run(command, env=os.environ | environment, check=True, cwd=SOURCE)


def _program() -> Path:
    """Where it is built to: a folder named after its sources, so that other sources are another build."""
    digest = hashlib.sha256(b"".join((SOURCE / name).read_bytes() for name in ("go.mod", "go.sum", "main.go")))
    return TOOLS / f"otlp-receiver@{digest.hexdigest()[:12]}" / "otlp-receiver"


def _spans(request: dict[str, Any]) -> Iterator[ReceivedSpan]:
    for group in request["resourceSpans"]:
        resource = _attributes(group["resource"]["attributes"])
        for scope in group["scopeSpans"]:
            for span in scope["spans"]:
                yield ReceivedSpan(
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent_span_id=span.get("parentSpanId", ""),
                    name=span["name"],
                    service=resource["service.name"],
                    instance=resource["service.instance.id"],
                    attributes=_attributes(span.get("attributes", [])),
                    links=tuple(link["spanId"] for link in span.get("links", [])),
                )


def _attributes(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: next(iter(pair["value"].values())) for pair in pairs}


def _answers(url: str) -> bool:
    """It has no page at its root, and says so."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 404
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


ASKED["http"] = _answers
