"""What the S3 adapter does beyond the contract, against each S3 server: parts, reuse, links, refusals."""

import io
import os
import urllib.request
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select
from tests.servers.fresh import open_s3
from tests.servers.processes import free_port

from tunix_rt_common.db.models import UploadRecord
from tunix_rt_common.errors import Conflict, InvalidInput, Unavailable
from tunix_rt_common.storage import Capabilities, open_store
from tunix_rt_common.storage.base import UnrecordedUploads
from tunix_rt_common.storage.s3 import client, store
from tunix_rt_common.uploads import DatabaseUploads

THREE_PARTS_BYTES = 40 << 20
TOMORROW = datetime.now(UTC) + timedelta(days=1)


class Behind:
    """The server as its operator sees it."""

    def __init__(self, url):
        self.client, self.bucket = open_s3(url), urlsplit(url).netloc
        self.prefix = urlsplit(url).path.strip("/")

    def key(self, sha256):
        return f"{self.prefix}/blobs/sha256/{sha256[:2]}/{sha256}"

    def head(self, sha256):
        return self.client.stat_object(self.bucket, self.key(sha256))

    def write(self, sha256, content, metadata):
        self.client.put_object(self.bucket, self.key(sha256), io.BytesIO(content), len(content), metadata=metadata)

    def mark(self, sha256):
        """Note on a blob that it has not been uploaded since."""
        headers = self.client.stat_object(
            self.bucket, self.key(sha256), extra_headers={"x-amz-checksum-mode": "ENABLED"}
        ).metadata
        content = self.client.get_object(self.bucket, self.key(sha256)).read()
        checksum = {"x-amz-checksum-sha256": headers["x-amz-checksum-sha256"]}
        self.write(sha256, content, {"sha256": sha256, "seen": "yes"} | checksum)

    def is_marked(self, sha256):
        return "x-amz-meta-seen" in self.head(sha256).metadata


@pytest.fixture
def behind(s3_url):
    return Behind(s3_url)


@pytest.fixture
def big_file(tmp_path):
    file = tmp_path / "big"
    file.write_bytes(os.urandom(1 << 20) * 40)
    assert file.stat().st_size == THREE_PARTS_BYTES
    return file


class Watcher(UnrecordedUploads):
    """A ledger that does something when an upload begins."""

    def __init__(self, do):
        self.do = do

    def begin(self, key):
        self.do(key)
        return super().begin(key)


def rows(machine):
    with machine.reading() as session:
        return list(session.scalars(select(UploadRecord.key)))


def test_big_file_goes_up_in_parts_and_comes_back(s3_url, behind, machine, big_file, tmp_path):
    seen = []

    class Ledger(DatabaseUploads):
        def end(self, token):
            seen.extend(rows(machine))
            super().end(token)

    opened = open_store(s3_url, Ledger(machine.database))
    blob = opened.put_file(big_file)
    assert seen == [behind.key(blob.sha256)]
    assert rows(machine) == []
    assert behind.head(blob.sha256).etag.endswith("-3")
    assert opened.put_file(big_file) == blob
    opened.fetch(blob.sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == big_file.read_bytes()
    assert len(seen) == 1


def test_file_of_one_part_is_not_written_into_the_ledger(s3_url, tmp_path):
    (tmp_path / "file").write_bytes(bytes(16 << 20))
    begun = []
    open_store(s3_url, Watcher(begun.append)).put_file(tmp_path / "file")
    assert begun == []


def test_young_blob_is_not_uploaded_again_and_an_old_one_is(s3_url, behind, monkeypatch):
    opened = open_store(s3_url)
    sha256 = opened.put_bytes(b"content").sha256
    behind.mark(sha256)
    opened.put_bytes(b"content")
    assert behind.is_marked(sha256)
    monkeypatch.setattr(store, "REUSE_WITHIN", timedelta(0))
    opened.put_bytes(b"content")
    assert not behind.is_marked(sha256)


def test_big_blob_that_was_written_over_is_uploaded_again(s3_url, behind, big_file):
    opened = open_store(s3_url)
    sha256 = opened.put_file(big_file).sha256
    behind.write(sha256, bytes(THREE_PARTS_BYTES), {"sha256": "another"})
    with pytest.raises(Unavailable, match="is damaged"):
        opened.read(sha256)
    opened.put_file(big_file)
    assert opened.read(sha256) == big_file.read_bytes()


def test_file_that_changes_between_hash_and_upload_is_refused(s3_url, behind, big_file):
    def change(key):
        with big_file.open("r+b") as file:
            file.write(b"changed")

    opened = open_store(s3_url, Watcher(change))
    with pytest.raises(Conflict, match="changes while it is being stored"):
        opened.put_file(big_file)
    assert list(opened.blobs()) == []


def test_blobs_of_another_prefix_are_not_listed(s3_url):
    base, query = s3_url.split("?")
    open_store(f"{base}/inner?{query}").put_bytes(b"content")
    assert list(open_store(s3_url).blobs()) == []


def test_store_at_the_root_of_a_bucket_keeps_its_blobs_there(s3_url, behind):
    opened = open_store(s3_url.replace(urlsplit(s3_url).path, ""))
    sha256 = opened.put_bytes(b"at the root").sha256
    assert behind.client.stat_object(behind.bucket, f"blobs/sha256/{sha256[:2]}/{sha256}").size == 11
    opened.delete(sha256, TOMORROW)


def test_link_downloads_the_blob_under_its_file_name_until_it_expires(s3_url):
    endpoint = s3_url.partition("endpoint=")[2].partition("&")[0]
    opened = open_store(f"{s3_url}&public_endpoint={endpoint}")
    url = opened.presigned_url(opened.put_bytes(b"content").sha256, filename='é "a"; b/c.txt', expires_s=300)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"content"
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9%20%22a%22%3B%20b%2Fc.txt"
        assert answer.headers["content-type"] == "application/octet-stream"
    with pytest.raises(HTTPError, match="403"):
        urllib.request.urlopen(url.replace("X-Amz-Expires=300", "X-Amz-Expires=301"))


def test_link_is_made_for_the_public_endpoint_without_asking_it():
    opened = open_store("s3://bucket?endpoint=http://127.0.0.1:1&public_endpoint=https://files.example.org:8443")
    url = opened.presigned_url("a" * 64, filename="a.txt", expires_s=60)
    assert url.startswith(f"https://files.example.org:8443/bucket/blobs/sha256/aa/{'a' * 64}?")
    assert "X-Amz-Expires=60&" in url


@pytest.fixture(autouse=True)
def credentials(s3_credentials, monkeypatch, tmp_path):
    """Those of the test's servers, and none of whoever runs the tests."""
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "nowhere"))


def every_call(opened, folder):
    """All that a store does, one after the other."""
    (folder / "file").write_bytes(b"content")
    yield lambda: opened.put_bytes(b"content")
    yield lambda: opened.put_file(folder / "file")
    yield lambda: opened.read("0" * 64)
    yield lambda: opened.fetch("0" * 64, folder / "copy")
    yield lambda: list(opened.blobs())
    yield lambda: opened.delete("0" * 64, TOMORROW)
    yield opened.probe
    yield lambda: opened.unfinished_uploads("key")
    yield lambda: opened.abort_upload("key", "id")


def assert_unavailable(url, folder, words):
    for call in every_call(open_store(url), folder):
        with pytest.raises(Unavailable, match=words):
            call()


def test_probe_says_what_the_server_can_do(s3_url):
    assert open_store(s3_url).probe() == Capabilities(conditional_put=True, checksums=True)
    assert open_store(f"{s3_url}&public_endpoint=https://files.example.org").probe().presigned_urls


def test_bucket_that_is_missing_is_named_with_what_to_do(s3_url):
    opened = open_store(s3_url.replace("s3://tests", "s3://absent-bucket"))
    for call in (opened.probe, lambda: opened.put_bytes(b"content"), lambda: list(opened.blobs())):
        with pytest.raises(Unavailable, match="create the bucket, or correct its name in TUNIX_RT_ARTIFACTS_URL"):
            call()


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_with_where_they_are_set(s3_url, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "wrong")
    assert_unavailable(s3_url, tmp_path, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")


def test_missing_credentials_are_named_with_where_they_are_set(s3_url, tmp_path, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{free_port()}")
    assert_unavailable(s3_url, tmp_path, "no S3 credentials found: set AWS_ACCESS_KEY_ID")


def test_server_that_is_away_is_named_with_the_setting_to_look_at(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "RETRIES", 0)
    address = f"http://127.0.0.1:{free_port()}"
    words = rf"{address} does not answer .*: check that S3 runs, and endpoint= in TUNIX_RT_ARTIFACTS_URL"
    assert_unavailable(f"s3://bucket?endpoint={address}", tmp_path, words)


@pytest.fixture
def other_server(request):
    """Something on a port that is no S3."""
    status, body = request.param

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def __getattr__(self, name):
            if name.startswith("do_"):
                return self.answer
            raise AttributeError(name)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "other_server",
    [(200, b"<html>Welcome!"), (200, b""), (404, b"\xff"), (302, b""), (503, b"busy"), (418, b"<Error/>")],
    ids=["page", "nothing", "bytes", "redirect", "busy", "teapot"],
    indirect=True,
)
def test_what_is_no_s3_server_is_unavailable_and_nothing_else(other_server, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "RETRIES", 0)
    opened = open_store(f"s3://bucket?endpoint={other_server}")
    for call in (opened.probe, lambda: opened.put_bytes(b"content"), lambda: opened.read("0" * 64)):
        with pytest.raises(Unavailable):
            call()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/p", "has credentials in it"),
        ("s3://bucket/p?endpoint=http://key:secret@host", "has credentials in endpoint"),
        ("s3://bucket/p?endpoint=host:9000", "no usable endpoint"),
        ("s3://bucket/p?endpoint=", "no usable endpoint"),
        ("s3://bucket/p?endpoint=http://host:99999", "no usable endpoint"),
        ("s3://bucket/p?endpoint=http://host/path", "no usable endpoint"),
        ("s3://bucket/p?public_endpoint=ftp://host", "no usable public_endpoint"),
        ("s3://bucket/p?endpint=http://host", "unknown option 'endpint'"),
        ("s3://bucket/p?region=eu west", "no usable region"),
        ("s3:///p", "no usable bucket"),
        ("s3://Bucket", "no usable bucket"),
        ("s3://bucket/../other", "no usable prefix"),
        ("s3://bucket/a//b", "no usable prefix"),
        ("s3://[bucket", "broken host name"),
        ("s3://bucket?endpoint=http://[::1", "broken host name"),
    ],
)
def test_url_that_cannot_work_is_refused_without_repeating_a_secret(url, words):
    with pytest.raises(InvalidInput, match=words) as refused:
        open_store(url)
    assert refused.value.field == "TUNIX_RT_ARTIFACTS_URL"
    assert "secret" not in str(refused.value).replace("AWS_SECRET", "")


def test_url_without_endpoint_is_amazons():
    url = open_store("s3://bucket?region=eu-central-1&public_endpoint=https://s3.amazonaws.com").presigned_url(
        "a" * 64, filename="a.txt", expires_s=60
    )
    assert url.startswith("https://bucket.s3.eu-central-1.amazonaws.com/blobs/")
