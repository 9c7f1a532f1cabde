"""Log lines: which fields they have, and that nobody's text can forge one."""

import json
import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tunix_rt_common import jsonlogs, telemetry

logger = logging.getLogger("tunix_rt_common.somewhere")
RUN, JOB = uuid4(), uuid4()
HOSTILE = 'no such run \n{"level": "CRITICAL"}\r\x1b[31m\x00\u2028\x85 "quoted" ümläut'


@pytest.fixture
def logs(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[Any], Callable[[], list[str]]]]:
    """Set up in a format; what that returns reads the lines written since."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def written() -> list[str]:
        return capsys.readouterr().err.splitlines()

    def start(log_format: Any) -> Callable[[], list[str]]:
        jsonlogs.setup("trainer", log_format)
        return written

    yield start
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level = before


def test_a_json_line_says_when_who_what_and_about_which_run(logs):
    lines = logs("json")
    telemetry.setup("trainer")
    with telemetry.context(run_id=RUN, job_id=JOB), telemetry.span("train"):
        context = telemetry.traceparent()
        logger.info("step %d of %d", 3, 10)
    telemetry.shutdown()
    [line] = map(json.loads, lines())
    assert datetime.fromisoformat(line.pop("time")).utcoffset() == timedelta(0)
    assert line == {
        "level": "INFO",
        "logger": "tunix_rt_common.somewhere",
        "message": "step 3 of 10",
        "service": "tunix-rt-trainer",
        "trace_id": context.split("-")[1],
        "span_id": context.split("-")[2],
        "run_id": str(RUN),
        "job_id": str(JOB),
    }


def test_a_line_about_nothing_in_particular_has_no_ids(logs):
    lines = logs("json")
    logger.warning("the relay waits", extra={"color_message": "in colour", "password": "s3cret"})
    [line] = map(json.loads, lines())
    assert set(line) == {"time", "level", "logger", "message", "service"}


def test_in_a_process_of_several_services_each_signs_its_lines(logs):
    lines = logs("json")
    with telemetry.span("register", service="registry"):
        logger.info("registered")
    logger.info("served")
    assert [json.loads(line)["service"] for line in lines()] == ["tunix-rt-registry", "tunix-rt-trainer"]


def test_an_error_comes_with_its_traceback_in_one_json_line(logs):
    lines = logs("json")
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("it failed")
    [line] = map(json.loads, lines())
    assert "Traceback" in line["exc"]
    assert HOSTILE in line["exc"]


def test_no_character_of_a_message_ends_a_json_line(logs):
    lines = logs("json")
    logger.warning("asked for %s", HOSTILE)
    [line] = map(json.loads, lines())
    assert line["message"] == f"asked for {HOSTILE}"


def test_a_text_line_is_one_line_whatever_its_message_holds(logs):
    lines = logs("text")
    with telemetry.context(run_id=RUN):
        logger.warning("asked for %s", HOSTILE)
    [line] = lines()
    assert "\x1b" not in line
    assert "\x00" not in line
    assert r"no such run \n" in line
    assert line.endswith(f"[service=tunix-rt-trainer run_id={RUN}]")


def test_a_traceback_below_a_text_line_cannot_look_like_a_line_of_its_own(logs):
    lines = logs("text")
    try:
        raise ValueError("first\n2026-01-01 CRITICAL forged")
    except ValueError:
        logger.exception("it failed")
    first, *rest = lines()
    assert "ERROR tunix_rt_common.somewhere: it failed" in first
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_other_peoples_chatter_is_left_out_and_their_warnings_are_not(logs):
    lines = logs("json")
    logging.getLogger("urllib3").info("connection opened")
    logging.getLogger("celery").warning("broker lost")
    assert [json.loads(line)["message"] for line in lines()] == ["broker lost"]
