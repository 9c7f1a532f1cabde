"""One trace over the life of a run: four services as processes of their own, and a real collector that listens."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.bars.cluster import SERVICES, Cluster
from tests.e2e.bars.server import build_sums, child_pids, small_run, wait_for_end
from tests.servers.otlp import OtlpReceiver, ReceivedSpan
from tests.servers.ready import wait_until

from tunix_rt.types import RunTrace

PASSED_ON = ("publish train", "wait train", "publish evaluate", "wait evaluate", "publish register", "register")
TRAINED = ("start", "data", "preflight", "weights", "restore", "compile", "steps", "checkpoint", "export")
EVALUATED = ("load model", "generate", "judge", "gate")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """A collector that every process started from now on knows of."""
    with OtlpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


def spans_of(collector: OtlpReceiver, run_id: str) -> list[ReceivedSpan]:
    """Every span of the traces that the run is in, once the last of them have arrived."""

    def found() -> list[ReceivedSpan]:
        spans = collector.spans()
        traces = {span.trace_id for span in spans if span.attributes.get("tunix_rt.run_id") == run_id}
        return [span for span in spans if span.trace_id in traces]

    wait_until(lambda: {span.name for span in found()} >= {"publish register", "register"}, "the registration's spans")
    return found()


def named(spans: list[Any], name: str) -> list[Any]:
    return [span for span in spans if span.name == name]


def kill_child(cluster: Cluster) -> None:
    """Kill the process that trains for this cluster."""
    [child] = child_pids("tunix_rt_trainer.job", cluster.home / "trainer")
    os.kill(child, signal.SIGKILL)


@pytest.mark.timeout(300)
def test_a_run_is_one_trace_over_all_services_also_after_a_retry(collector: OtlpReceiver, cluster: Cluster):
    with cluster.client() as client:
        build_sums(client)
        run_id = client.runs.create(small_run(120, checkpoint_every=40)).run_id
        wait_until(lambda: named(collector.spans(), "checkpoint"), "the first checkpoint's span")
        kill_child(cluster)
        assert wait_for_end(client, run_id).state == "succeeded"
        spans = spans_of(collector, run_id)
        check_trace(spans)
        wait_until(lambda: surely_kept(spans) <= span_ids(client.runs.trace(run_id)), "the spans in the database")
        check_waterfall(client.runs.trace(run_id), spans)


def check_trace(spans: list[ReceivedSpan]) -> None:
    ids = {span.span_id for span in spans}
    [root] = [span for span in spans if not span.parent_span_id]
    first, second = sorted(named(spans, "train"), key=lambda span: int(span.attributes["tunix_rt.attempt"]))
    assert len({span.trace_id for span in spans}) == 1
    assert root.name == "POST /api/v1/runs"
    assert {span.service for span in spans} >= {f"tunix-rt-{name}" for name in SERVICES}
    assert len({span.instance for span in spans}) >= len(SERVICES)
    assert {span.name for span in spans} >= {*TRAINED, *EVALUATED, *PASSED_ON}
    assert first.parent_span_id == second.parent_span_id == root.span_id
    assert second.links == (first.span_id,)
    assert {span.attributes["tunix_rt.step"] for span in named(spans, "checkpoint")} >= {"40", "80", "120"}
    lost = [span.name for span in spans if span.parent_span_id and span.parent_span_id not in ids]
    assert set(lost) <= {"checkpoint"}, "only what was open in the killed process is lost"


def surely_kept(spans: list[ReceivedSpan]) -> set[str]:
    """All but those of the killed process, whose last ones may have gone one way and not the other."""
    first = min(named(spans, "train"), key=lambda span: int(span.attributes["tunix_rt.attempt"]))
    killed = {span.instance for span in spans if span.parent_span_id == first.span_id}
    return {span.span_id for span in spans if span.instance not in killed}


def span_ids(trace: RunTrace) -> set[str]:
    return {span.span_id for span in trace.spans}


def check_waterfall(trace: RunTrace, spans: list[ReceivedSpan]) -> None:
    """The same spans, in the order of a waterfall, with one root."""
    assert trace.trace_id == spans[0].trace_id
    assert [span.name for span in trace.spans if span.depth == 0] == ["POST /api/v1/runs"]
    for before, span in zip(trace.spans, trace.spans[1:], strict=False):
        assert 0 < span.depth <= before.depth + 1
        assert span.offset_s >= 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_collector_that_stops_answering_is_missed_by_nobody(collector: OtlpReceiver, cluster: Cluster):
    collector.freeze()
    with cluster.client() as client:
        build_sums(client)
        run = wait_for_end(client, client.runs.create(small_run(30)).run_id)
        assert run.state == "succeeded"
        told = {*TRAINED, *EVALUATED, *PASSED_ON}
        wait_until(lambda: {span.name for span in client.runs.trace(run.run_id).spans} >= told, "the whole waterfall")
    collector.thaw()
