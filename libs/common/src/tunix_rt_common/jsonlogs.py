"""Log lines of a service: one JSON object or one line of text per record, with the ids of what it is about.

What a message holds was often written by somebody else. No character of it can end a line early or act on a terminal.
"""

import logging
import sys
import unicodedata
from datetime import UTC, datetime
from typing import Any, Literal

from opentelemetry import trace
from pythonjsonlogger.json import JsonFormatter

from tunix_rt_common import correlation

LogFormat = Literal["text", "json"]

OURS = ("api", "common", "embedded", "evaluator", "registry", "trainer")


class JsonLines(JsonFormatter):
    """time, level, logger, message, service; trace_id, span_id, run_id, job_id and exc where there are any."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Fill in the line's fields, and no others."""
        fields = _fields(record, self._service) | {"exc": message_dict.get("exc_info")}
        log_data.update((name, value) for name, value in fields.items() if value is not None)


class TextLines(logging.Formatter):
    """The same for a person: time, level, logger, message, ids in brackets; a traceback is indented."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line, and those of a traceback below it."""
        record.message = record.getMessage()
        fields = _fields(record, self._service)
        head = " ".join(str(fields.pop(name)) for name in ("time", "level", "logger"))
        message = _harmless(str(fields.pop("message")))
        ids = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
        trace_lines = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n    ".join([f"{head}: {message} [{ids}]", *map(_harmless, trace_lines)])


def setup(service: str, log_format: LogFormat) -> None:
    """Send this process's log to stderr, at INFO for what is ours and WARNING for the rest."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(service) if log_format == "json" else TextLines(service))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for ours in ("__main__", *(f"tunix_rt_{name}" for name in OURS)):
        logging.getLogger(ours).setLevel(logging.INFO)
    logging.captureWarnings(capture=True)


def _fields(record: logging.LogRecord, service: str) -> dict[str, str | None]:
    here, span = correlation.current(), trace.get_current_span().get_span_context()
    return {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.message,
        "service": f"tunix-rt-{here.service or service}",
        "trace_id": f"{span.trace_id:032x}" if span.is_valid else None,
        "span_id": f"{span.span_id:016x}" if span.is_valid else None,
        "run_id": here.run_id,
        "job_id": here.job_id,
    }


def _harmless(text: str) -> str:
    return "".join(c if unicodedata.category(c) not in {"Cc", "Zl", "Zp"} else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
