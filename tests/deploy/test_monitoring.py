"""Scrape targets, alert rules and dashboards: what they name has to be there."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml
from tests.deploy import compose
from tests.servers.binaries import find_promtool

PROMETHEUS = compose.DEPLOY / "compose" / "prometheus"
GRAFANA = compose.DEPLOY / "grafana"
CONFIGURATION = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
DASHBOARDS = {file.stem: json.loads(file.read_text()) for file in sorted((GRAFANA / "dashboards").glob("*.json"))}
PANELS = [(name, panel) for name, board in DASHBOARDS.items() for panel in board["panels"]]
QUERIES = [target["expr"] for _, panel in PANELS for target in panel["targets"] if "expr" in target]
EXPRESSIONS = [rule["expr"] for rule in RULES] + QUERIES
EXPORTED_BY_OTHERS = re.compile(r"(up|minio|node|otelcol|process|redis)(_|$)")
SAMPLE_SUFFIX = re.compile(r"_(bucket|count|sum|total)$")


def selected(node):
    """The names of the metrics that an expression reads."""
    if isinstance(node, promql_parser.VectorSelector):
        return {node.name}
    if isinstance(node, promql_parser.MatrixSelector):
        return {node.vector_selector.name}
    parts = [getattr(node, field, None) for field in ("expr", "lhs", "rhs")]
    parts += list(getattr(node, "args", []))
    return set().union(*(selected(part) for part in parts if part is not None))


def defined():
    """The metrics that the code defines, without the suffixes that Prometheus' samples carry."""
    sources = [compose.REPOSITORY / "libs/common/src/tunix_rt_common" / name for name in ("backlog.py", "metrics.py")]
    return {name for source in sources for name in re.findall(r'"(tunix_rt_\w+)"', source.read_text())}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expression_reads_only_metrics_that_somebody_exports(expression):
    read = selected(promql_parser.parse(expression))
    assert read
    ours = {name for name in read if not EXPORTED_BY_OTHERS.match(name)}
    assert {SAMPLE_SUFFIX.sub("", name) for name in ours} <= defined()


def test_every_metric_of_ours_is_looked_at():
    read = {name for expression in EXPRESSIONS for name in selected(promql_parser.parse(expression))}
    assert defined() <= {SAMPLE_SUFFIX.sub("", name) for name in read}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_alert_says_what_is_wrong_how_bad_it_is_and_where_to_look(rule):
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description"}


def test_targets_are_services_that_prometheus_can_reach():
    services = compose.services()
    for scrape in CONFIGURATION["scrape_configs"]:
        static = [target.split(":")[0] for one in scrape.get("static_configs", []) for target in one["targets"]]
        names = [name for one in scrape.get("dns_sd_configs", []) for name in one["names"]]
        for host in {*static, *names} - {"localhost"}:
            assert "inside" in services[host]["networks"]


def test_every_service_of_ours_is_scraped():
    stay = {
        name
        for name, service in compose.services().items()
        if compose.is_ours(service) and not compose.is_one_shot(service)
    }
    assert stay <= {scrape["job_name"] for scrape in CONFIGURATION["scrape_configs"]}


def test_dashboards_use_the_provisioned_data_sources():
    provisioned = yaml.safe_load((GRAFANA / "provisioning/datasources/tunix-rt.yaml").read_text())["datasources"]
    known = {(source["type"], source["uid"]) for source in provisioned}
    used = {(one["datasource"]["type"], one["datasource"]["uid"]) for _, panel in PANELS for one in panel["targets"]}
    assert used <= known
    for source in provisioned:
        assert re.match(r"http://([\w-]+):", source["url"]).group(1) in compose.services()


def test_dashboards_are_mounted_where_grafana_looks():
    provider = yaml.safe_load((GRAFANA / "provisioning/dashboards/tunix-rt.yaml").read_text())["providers"][0]
    targets = [mount.split(":")[1] for mount in compose.services()["grafana"]["volumes"]]
    assert provider["options"]["path"] in targets
    assert len({board["uid"] for board in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize(
    ("name", "panel"), PANELS, ids=lambda value: value if isinstance(value, str) else value["title"]
)
def test_panel_says_what_it_shows(name, panel):
    assert panel["title"]
    assert panel["description"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name):
    cells = [
        (x, y)
        for panel in DASHBOARDS[name]["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_alerts_fire_when_they_should(tmp_path):
    shutil.copy(PROMETHEUS / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    subprocess.run([find_promtool(), "test", "rules", "alerts_test.yml"], cwd=tmp_path, check=True)
