"""Settings: one frozen value, resolved at the door."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from tunix_rt_common.settings import Settings


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch):
    for name in [name for name in os.environ if name.startswith("TUNIX_RT_")]:
        monkeypatch.delenv(name)


def test_unset_urls_point_into_the_home_folder(tmp_path):
    settings = Settings(home=tmp_path)
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/tunix-rt.db"
    assert settings.resolved_artifacts_url == f"file://{tmp_path}/artifacts"
    assert settings.queue_url == "inline://"


def test_urls_that_are_given_are_kept(monkeypatch):
    monkeypatch.setenv("TUNIX_RT_DATABASE_URL", "sqlite:////elsewhere/a.db")
    monkeypatch.setenv("TUNIX_RT_ARTIFACTS_URL", "file:///elsewhere/blobs")
    settings = Settings()
    assert settings.resolved_database_url == "sqlite:////elsewhere/a.db"
    assert settings.resolved_artifacts_url == "file:///elsewhere/blobs"


def test_home_is_absolute_whatever_folder_a_process_starts_in(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings(home="~/runs").home_dir == tmp_path / "runs"
    assert Settings(home="runs").home_dir == Path.cwd() / "runs"


def test_child_resolves_to_the_settings_of_its_parent(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    parent = Settings(home="runs", keep_checkpoints=7, endpoint_urls=("http://a/v1", "http://b/v1"))
    monkeypatch.chdir("/")
    for name, value in parent.child_environment().items():
        monkeypatch.setenv(name, value)
    child = Settings()
    assert (child.home_dir, child.keep_checkpoints) == (parent.home_dir, 7)
    assert child.endpoint_urls == parent.endpoint_urls
    assert child.resolved_database_url == parent.resolved_database_url
    assert child.resolved_artifacts_url == parent.resolved_artifacts_url


def test_keys_of_endpoints_are_found_by_any_spelling_of_their_url_and_never_shown(monkeypatch):
    monkeypatch.setenv("TUNIX_RT_ENDPOINT_API_KEYS", '{"HTTP://GPU.example:80/v1/": "sk-1"}')
    settings = Settings()
    assert settings.endpoint_api_keys["http://gpu.example/v1"].get_secret_value() == "sk-1"
    assert "sk-1" not in repr(settings)


def test_settings_do_not_change_once_made():
    with pytest.raises(ValidationError):
        Settings().lease_s = 3.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENDPOINT_URLS", '["ftp://a"]'),
        ("ENDPOINT_URLS", '["http://key@a/v1"]'),
        ("LEASE_S", "0"),
        ("HEARTBEAT_S", "-1"),
        ("MAX_ATTEMPTS", "0"),
        ("PORT", "65536"),
        ("RETRY_DELAY_S", "nan"),
        ("LEASE_S", "inf"),
        ("LEASE_S", "soon"),
    ],
)
def test_setting_that_cannot_work_is_refused_at_the_door(monkeypatch, name, value):
    monkeypatch.setenv(f"TUNIX_RT_{name}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert refused.value.errors()[0]["loc"][0] == name.lower()
