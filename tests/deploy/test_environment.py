"""Making .env: the secrets of one installation."""

import subprocess
import sys

import pytest
from dotenv import dotenv_values
from tests.deploy.compose import DEPLOY, example

SCRIPT = DEPLOY / "compose" / "make_env.py"


def make(folder):
    return subprocess.run([sys.executable, str(SCRIPT)], cwd=folder, check=False)


@pytest.fixture
def made(tmp_path):
    assert make(tmp_path).returncode == 0
    return tmp_path / ".env"


def test_every_secret_is_random_and_fits_into_a_url(made):
    values = dotenv_values(made)
    secrets = [values[name] for name, value in example().items() if not value]
    assert len(set(secrets)) == len(secrets) > 5
    assert all(len(secret) == 64 and secret.isalnum() for secret in secrets)


def test_what_is_not_secret_stays_as_the_example_has_it(made):
    values = dotenv_values(made)
    assert {name: values[name] for name, value in example().items() if value} == {
        name: value for name, value in example().items() if value
    }


def test_others_cannot_read_it(made):
    assert made.stat().st_mode & 0o777 == 0o600


def test_secrets_in_use_are_not_overwritten(made):
    before = made.read_text()
    assert make(made.parent).returncode != 0
    assert made.read_text() == before
