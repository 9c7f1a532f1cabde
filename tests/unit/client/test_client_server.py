import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import entry_points

import pytest

from tunix_rt.errors import ClientError, NotInstalled
from tunix_rt.server import Server, find_server


class Health(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/healthz" else 404)
        self.end_headers()
        self.wfile.write(self.server.health)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNIX_RT_HOME", str(tmp_path))
    monkeypatch.delenv("TUNIX_RT_API_URL", raising=False)
    return tmp_path


@pytest.fixture
def healthy(home):
    """A server that answers to /healthz, written down as `tunix-rt up` does."""
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        server.health = b'{"status": "ok"}'
        server.url = f"http://127.0.0.1:{server.server_port}"
        (home / "server.json").write_text(json.dumps({"url": server.url, "pid": 1}))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def embedded(tmp_path, monkeypatch):
    """An installed package with an embedded world that notes when it is opened and closed."""
    packages = tmp_path / "site"
    info = packages / "pretended_embedded-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended-embedded\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[tunix_rt.embedded]\nworld = pretended_world:open_world\n")
    (packages / "pretended_world.py").write_text(
        "from contextlib import contextmanager\n"
        "log = []\n"
        "@contextmanager\n"
        "def open_world():\n"
        "    log.append('opened')\n"
        "    yield 'http://127.0.0.1:1'\n"
        "    log.append('closed')\n"
    )
    monkeypatch.syspath_prepend(str(packages))


def test_named_server_wins_over_one_that_runs_here(healthy, monkeypatch):
    monkeypatch.setenv("TUNIX_RT_API_URL", "http://elsewhere:1")
    with find_server() as server:
        assert server == Server("http://elsewhere:1", own=False)


def test_running_server_is_found_through_its_file(healthy, embedded):
    with find_server() as server:
        assert server == Server(healthy.url, own=False)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"url": 5}', '{"url": "http://127.0.0.1:1"}', '{"url": "http://["}'])
def test_file_of_a_dead_server_is_passed_over(home, embedded, text):
    (home / "server.json").write_text(text)
    with find_server() as server:
        assert server.own


def test_other_program_on_the_port_is_not_taken_for_the_server(healthy, embedded):
    healthy.health = b"<html>"
    with find_server() as server:
        assert server.own


def test_own_world_is_open_exactly_as_long_as_it_is_used(embedded):
    with find_server() as server:
        import pretended_world

        assert server == Server("http://127.0.0.1:1", own=True)
        assert pretended_world.log[-1] == "opened"
    assert pretended_world.log[-1] == "closed"


@pytest.mark.skipif(bool(entry_points(group="tunix_rt.embedded")), reason="the embedded world is installed here")
def test_missing_world_is_told_with_its_install_command():
    with pytest.raises(NotInstalled, match="pip install tunix-rt-embedded"), find_server():
        pass


def test_setting_that_cannot_be_read_is_named(monkeypatch):
    monkeypatch.setenv("TUNIX_RT_PORT", "many")
    with pytest.raises(ClientError, match="TUNIX_RT_PORT"), find_server():
        pass
