import hashlib
from pathlib import Path

import httpx2
import pytest

from tunix_rt.client import Client
from tunix_rt.downloads import placed_file, placed_folder
from tunix_rt.errors import ClientError, DamagedDownload, ServerAway, UnexpectedAnswer

CONTENT = {"config.json": b"{}", "weights/part 1.safetensors": b"w" * 300_000}


def version(files) -> dict:
    return {
        "name": "sums",
        "version": 3,
        "aliases": [],
        "manifest_sha256": "0" * 64,
        "files": files,
        "run_id": "r",
        "evaluation_id": None,
        "decision": None,
        "reason": None,
        "metrics": {},
        "provenance": {},
        "created_at": "2026-01-01T00:00:00Z",
    }


def registry(content, *, listed=CONTENT) -> Client:
    """A registry that lists `listed`, and answers with `content`."""
    files = [
        {"path": path, "sha256": hashlib.sha256(body).hexdigest(), "size_bytes": len(body)}
        for path, body in listed.items()
    ]

    def answer(request: httpx2.Request) -> httpx2.Response:
        path = request.url.path.partition("/files/")[2]
        return httpx2.Response(200, content=content[path]) if path else httpx2.Response(200, json=version(files))

    return Client("http://registry", transport=httpx2.MockTransport(answer))


def test_pulled_files_are_where_the_version_lists_them(tmp_path):
    sizes = []
    with registry(CONTENT) as server:
        server.models.pull(server.models.version("sums", "3"), tmp_path / "sums", progress=sizes.append)
    for path, body in CONTENT.items():
        assert (tmp_path / "sums" / path).read_bytes() == body
    assert sum(sizes) == sum(map(len, CONTENT.values()))


def test_one_changed_byte_leaves_nothing_behind(tmp_path):
    damaged = CONTENT | {"weights/part 1.safetensors": b"w" * 299_999 + b"x"}
    with registry(damaged) as server, pytest.raises(DamagedDownload, match="download it again"):
        server.models.pull(server.models.version("sums", "3"), tmp_path / "sums")
    assert list(tmp_path.iterdir()) == []


def test_damaged_download_leaves_the_folder_that_it_should_replace(tmp_path):
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "old").touch()
    with registry(CONTENT | {"config.json": b"{"}) as server, pytest.raises(DamagedDownload):
        server.models.pull(server.models.version("sums", "3"), tmp_path / "sums", replace=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["sums", "old"]


def test_server_that_dies_midway_leaves_nothing_behind(tmp_path):
    def halves():
        yield b"{"
        raise httpx2.ReadError("connection reset")

    with registry({"config.json": halves()}) as server, pytest.raises(ServerAway, match="connection reset"):
        server.models.pull(server.models.version("sums", "3"), tmp_path / "sums")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["../escaped", "/etc/escaped", "a/../../escaped"])
def test_path_that_leaves_the_folder_is_refused(path):
    with registry({}, listed={path: b""}) as server, pytest.raises(UnexpectedAnswer, match=r"leaves|plain path"):
        server.models.version("sums", "3")


def test_full_folder_is_kept_unless_replacement_is_asked_for(tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(ClientError, match="--force"), placed_folder(tmp_path, replace=False):
        pass
    assert (tmp_path / "mine").exists()


def test_current_folder_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClientError, match="current folder"), placed_folder(Path(), replace=True):
        pass


def test_file_in_place_of_a_folder_is_refused(tmp_path):
    (tmp_path / "sums").touch()
    with pytest.raises(ClientError, match="is a file"), placed_folder(tmp_path / "sums", replace=True):
        pass


def test_placed_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "rows.jsonl"
    target.write_bytes(b"old")

    def fail():
        with placed_file(target) as sink:
            sink.write(b"new")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"old"
    with placed_file(target) as sink:
        sink.write(b"new")
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_device_is_written_to_and_not_replaced():
    with placed_file(Path("/dev/null")) as sink:
        sink.write(b"gone")
    assert Path("/dev/null").is_char_device()
