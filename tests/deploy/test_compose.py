"""docker-compose.yml, as far as it can be checked without Docker."""

import json
import re
from importlib.resources import files

import jsonschema
import pytest
from tests.deploy import compose
from tests.deploy.dockerfile import stages

from tunix_rt_common.settings import Settings

SERVICES = compose.services()
OURS = {name: service for name, service in SERVICES.items() if compose.is_ours(service)}
OVERLAYS = sorted((compose.DEPLOY / "compose").glob("*.yml"))
STANDARD = ("AWS_", "OTEL_", "XLA_")
SECRET = re.compile(r"PASSWORD|SECRET|_AUTH$|MC_HOST")
STARTS = {"service_healthy", "service_completed_successfully"}
PINNED = re.compile(r":(v?\d+\.\d+(\.\d+)?|RELEASE\.[\w-]+)(@sha256:[0-9a-f]{64})?$")

each_service = pytest.mark.parametrize("name", SERVICES)
each_of_ours = pytest.mark.parametrize("name", OURS)


def seconds(text):
    return int(text.removesuffix("s"))


def foreign_image(service):
    """The published image that a service runs or stands on; None for ours."""
    build = service.get("build", {})
    return build.get("args", {}).get("IMAGE") if build else service["image"]


@pytest.mark.parametrize("file", [compose.FILE, *OVERLAYS], ids=lambda file: file.name)
def test_compose_file_follows_the_specification(file):
    schema = files("check_jsonschema.builtin_schemas.vendor").joinpath("compose-spec.json").read_text()
    jsonschema.validate(compose.read(file), json.loads(schema))


def test_example_names_every_variable_and_no_other():
    texts = [file.read_text() for file in (compose.FILE, *OVERLAYS)]
    used = {match["name"] for text in texts for match in compose.VARIABLE.finditer(text)}
    assert used == compose.example().keys()


def test_secrets_are_required_and_all_else_has_the_example_as_its_default():
    example = compose.example()
    for match in compose.VARIABLE.finditer(compose.FILE.read_text()):
        if SECRET.search(match["name"]):
            assert (match["how"], example[match["name"]]) == (":?", "")
        else:
            assert (match["how"], match["word"]) == (":-", example[match["name"]])


@each_service
def test_no_secret_is_written_down(name):
    for variable, value in SERVICES[name].get("environment", {}).items():
        assert not SECRET.search(variable) or "${" in value


@each_of_ours
def test_every_variable_of_ours_is_one_that_somebody_reads(name):
    known = {f"TUNIX_RT_{field.upper()}" for field in Settings.model_fields}
    unknown = {variable for variable in OURS[name]["environment"] if not variable.startswith(STANDARD)} - known
    assert unknown == set()


@each_of_ours
def test_settings_accept_what_the_container_says(name, monkeypatch):
    for variable, value in compose.environment(OURS[name], compose.example() | {"QUEUE_SECRET": "0" * 64}).items():
        monkeypatch.setenv(variable, value)
    settings = Settings()
    assert settings.queue_secret
    assert settings.log_format == "json"


def test_api_answers_to_its_health_check_and_to_prometheus(monkeypatch):
    for variable, value in compose.environment(SERVICES["api"], compose.example()).items():
        monkeypatch.setenv(variable, value)
    assert {"127.0.0.1", "api"} <= set(Settings().allowed_hosts)


@each_service
def test_container_is_confined(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert "privileged" not in service


def test_nobody_but_postgres_has_capabilities():
    """Its image starts as root, to take its folder, and goes on as postgres."""
    assert {name for name, service in SERVICES.items() if service.get("cap_drop") != ["ALL"]} == {"postgres"}


@each_service
def test_service_that_stays_tells_its_health(name):
    service = SERVICES[name]
    if compose.is_one_shot(service):
        assert "healthcheck" not in service or service["healthcheck"] == {"disable": True}
    elif "healthcheck" not in service:
        image = stages(compose.REPOSITORY / service["build"]["dockerfile"])[-1]
        assert image.all("HEALTHCHECK")


@each_service
def test_ports_are_open_to_this_machine_alone(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@each_service
def test_service_waits_for_what_it_needs_to_be_ready_and_not_just_started(name):
    needed = SERVICES[name].get("depends_on", {})
    assert {one["condition"] for one in needed.values()} <= STARTS
    for other, one in needed.items():
        assert (one["condition"] == "service_completed_successfully") == compose.is_one_shot(SERVICES[other])


@pytest.mark.parametrize("name", ["registry", "trainer", "evaluator"])
def test_container_is_given_more_time_to_stop_than_its_child(name):
    grace = float(OURS[name]["environment"]["TUNIX_RT_STOP_GRACE_S"])
    assert seconds(OURS[name]["stop_grace_period"]) >= grace + 10
    assert OURS[name]["init"] is True


def test_only_what_people_look_at_reaches_the_outside():
    outside = {name for name, service in SERVICES.items() if "outside" in service["networks"]}
    assert outside == {name for name, service in SERVICES.items() if "ports" in service}
    assert compose.read()["networks"]["inside"] == {"internal": True}


@each_service
def test_foreign_image_is_pinned(name):
    image = foreign_image(SERVICES[name])
    assert image is None or PINNED.search(image)


@pytest.mark.parametrize("name", ["minio", "bucket"])
def test_image_whose_maker_has_left_is_pinned_by_content(name):
    image = foreign_image(SERVICES[name])
    assert image.startswith("quay.io/")
    assert "@sha256:" in image


@each_service
def test_mounted_files_are_there_and_read_only(name):
    mounts = [volume for volume in SERVICES[name].get("volumes", []) if str(volume).startswith("./")]
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (compose.REPOSITORY / source).exists()
        assert mode == "ro"


@pytest.mark.parametrize("script", sorted(compose.DEPLOY.rglob("*.sh")), ids=lambda script: script.name)
def test_mounted_script_can_be_run(script):
    assert script.stat().st_mode & 0o111 == 0o111
    assert script.read_text().startswith("#!/bin/sh\n")
