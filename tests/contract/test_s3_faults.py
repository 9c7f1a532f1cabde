"""S3 as it is on bad days: silent, dead, cut off, full of what killed processes left."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select
from tests.faults.proxy import COMPLETE_UPLOAD, FaultProxy
from tests.servers.fresh import open_s3
from tests.servers.processes import Minio
from tests.servers.ready import s3_address, wait_until

from tunix_rt_common.db.models import UploadRecord, utc_now
from tunix_rt_common.errors import Unavailable
from tunix_rt_common.storage import open_store
from tunix_rt_common.storage.s3 import client
from tunix_rt_common.uploads import DatabaseUploads, abort_stale

UPLOADER = Path(__file__).with_name("s3_uploader.py")
BIG = os.urandom(1 << 20) * 40
DAY_S = 86_400.0


@pytest.fixture
def own_minio(s3_credentials):
    """A MinIO that may be hurt."""
    with Minio() as server:
        yield server


@pytest.fixture
def impatient(monkeypatch):
    """All waits a tenth or less of what they are."""
    monkeypatch.setattr(client, "CONNECT_S", 1.0)
    monkeypatch.setattr(client, "READ_S", 1.5)
    monkeypatch.setattr(client, "LAST_RETRY_S", 1.0)


@pytest.fixture
def proxy(s3_url):
    """A bad network before each S3 server in turn."""
    host, port = s3_address(s3_url).split(":")
    with FaultProxy(host, int(port)) as proxy:
        yield proxy


@pytest.fixture
def through_proxy(s3_url, proxy):
    return open_store(s3_url.replace(s3_address(s3_url), f"127.0.0.1:{proxy.port}"))


@pytest.fixture
def big_file(tmp_path):
    file = tmp_path / "big"
    file.write_bytes(BIG)
    return file


def key_of(store_url, sha256):
    return f"{urlsplit(store_url).path.strip('/')}/blobs/sha256/{sha256[:2]}/{sha256}".lstrip("/")


def rows(machine):
    with machine.reading() as session:
        return list(session.scalars(select(UploadRecord.key)))


def sparse_file(folder):
    """So big that an upload can be caught before it is complete."""
    file = folder / "sparse"
    file.touch()
    os.truncate(file, 1 << 29)
    return file


def begun_upload(machine, store):
    """The key of the upload in the ledger, once S3 knows of it."""
    wait_until(lambda: rows(machine), "an upload in the ledger")
    [key] = rows(machine)
    wait_until(lambda: list(store.unfinished_uploads(key)), "an upload in S3")
    return key


def test_no_call_can_wait_longer_than_ninety_seconds():
    last_backoff_s = 2.0
    assert client.LAST_RETRY_S + last_backoff_s + client.CONNECT_S + client.READ_S <= 90


def test_frozen_server_is_given_up_and_used_again_once_it_goes_on(own_minio, impatient, tmp_path):
    store = open_store(own_minio.url)
    kept = store.put_bytes(b"kept").sha256
    own_minio.freeze()
    started = time.monotonic()
    for call in (lambda: store.put_bytes(b"new"), lambda: store.read(kept), lambda: list(store.blobs()), store.probe):
        with pytest.raises(Unavailable, match="does not answer"):
            call()
    assert time.monotonic() - started < 4 * 10
    own_minio.thaw()
    assert store.read(kept) == b"kept"
    assert store.read(store.put_bytes(b"new").sha256) == b"new"


def test_server_that_falls_silent_in_the_middle_of_a_download_is_given_up(
    impatient, through_proxy, proxy, big_file, s3_url
):
    chunks = through_proxy.stream(open_store(s3_url).put_file(big_file).sha256)
    next(chunks)
    proxy.black_hole()
    with pytest.raises(Unavailable, match="does not answer"):
        list(chunks)


def test_server_killed_in_the_middle_of_an_upload_leaves_no_blob_and_takes_it_later(
    own_minio, impatient, machine, tmp_path
):
    ledger = DatabaseUploads(machine.database)
    store, file = open_store(own_minio.url, ledger), sparse_file(tmp_path)
    with ThreadPoolExecutor(1) as uploading:
        upload = uploading.submit(store.put_file, file)
        key = begun_upload(machine, store)
        own_minio.kill()
        with pytest.raises(Unavailable, match="does not answer"):
            upload.result()
    own_minio.restart()
    assert list(store.blobs()) == []
    assert abort_stale(machine.database, store, older_than_s=0) == 1
    assert (rows(machine), list(store.unfinished_uploads(key))) == ([], [])
    blob = store.put_file(file)
    assert [found.sha256 for found in store.blobs()] == [blob.sha256]


def test_download_goes_on_where_the_connection_broke(through_proxy, proxy, s3_url, big_file, tmp_path):
    sha256 = open_store(s3_url).put_file(big_file).sha256
    proxy.limit(7_000_000)
    through_proxy.fetch(sha256, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == BIG
    assert proxy.counts["limited"] >= len(BIG) // 7_000_000
    assert proxy.counts["reply_bytes"] < 1.3 * len(BIG)


def test_download_goes_on_after_a_reset(through_proxy, proxy, s3_url, big_file):
    chunks = through_proxy.stream(open_store(s3_url).put_file(big_file).sha256)
    received = [next(chunks)]
    proxy.reset_all()
    received += chunks
    assert b"".join(received) == BIG
    assert proxy.counts["reset"] >= 1


def test_download_from_which_nothing_more_comes_is_given_up_and_leaves_no_file(
    through_proxy, proxy, s3_url, big_file, tmp_path
):
    sha256 = open_store(s3_url).put_file(big_file).sha256
    proxy.limit(1000)
    with pytest.raises(Unavailable, match="does not answer"):
        through_proxy.fetch(sha256, tmp_path / "folder" / "copy")
    assert list((tmp_path / "folder").iterdir()) == []
    assert proxy.counts["accepted"] < 20


def test_upload_goes_on_after_resets(through_proxy, proxy, big_file):
    with ThreadPoolExecutor(1) as uploading:
        upload = uploading.submit(through_proxy.put_file, big_file)
        wait_until(lambda: proxy.counts["request_bytes"] > len(BIG) // 4, "a part of the upload")
        proxy.reset_all()
        blob = upload.result()
    assert proxy.counts["reset"] >= 1
    assert through_proxy.read(blob.sha256) == BIG


def test_upload_whose_last_answer_is_lost_is_known_to_be_complete(through_proxy, proxy, big_file):
    proxy.cut_after(COMPLETE_UPLOAD)
    blob = through_proxy.put_file(big_file)
    assert proxy.counts["cut"] == 1
    assert through_proxy.read(blob.sha256) == BIG


def test_small_put_whose_answer_is_lost_is_known_to_be_complete(through_proxy, proxy):
    proxy.cut_after(rb"PUT /")
    blob = through_proxy.put_bytes(b"content")
    assert proxy.counts["cut"] == 1
    assert through_proxy.read(blob.sha256) == b"content"


def test_object_that_ends_early_is_found_to_be_damaged(s3_url, tmp_path):
    store = open_store(s3_url)
    sha256 = store.put_bytes(BIG).sha256
    (tmp_path / "half").write_bytes(BIG[: len(BIG) // 2])
    open_s3(s3_url).fput_object(urlsplit(s3_url).netloc, key_of(s3_url, sha256), str(tmp_path / "half"))
    with pytest.raises(Unavailable, match="is damaged"):
        store.fetch(sha256, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def killed_uploader(machine, url, folder):
    """A process killed in the middle of an upload; the key of what it left."""
    store = open_store(url)
    process = subprocess.Popen([sys.executable, UPLOADER, machine.database.url, url, sparse_file(folder)])
    try:
        key = begun_upload(machine, store)
    finally:
        process.kill()
        process.wait()
    assert list(store.blobs()) == []
    return key


def test_what_a_killed_process_left_is_aborted_by_the_sweeper(s3_url, machine, tmp_path):
    key, store = killed_uploader(machine, s3_url, tmp_path), open_store(s3_url)
    assert abort_stale(machine.database, store, older_than_s=DAY_S) == 0
    assert list(store.unfinished_uploads(key))
    assert abort_stale(machine.database, store, older_than_s=0) == 1
    assert (rows(machine), list(store.unfinished_uploads(key))) == ([], [])
    assert abort_stale(machine.database, store, older_than_s=0) == 0


def test_two_sweepers_at_once_do_what_one_does(s3_url, machine, tmp_path):
    key, store = killed_uploader(machine, s3_url, tmp_path), open_store(s3_url)
    with ThreadPoolExecutor(2) as sweepers:
        sweeps = [sweepers.submit(abort_stale, machine.database, store, 0) for _ in range(2)]
        assert 1 <= sum(sweep.result() for sweep in sweeps) <= 2
    assert (rows(machine), list(store.unfinished_uploads(key))) == ([], [])


def test_sweeper_leaves_a_key_alone_while_somebody_else_uploads_it(s3_url, machine, tmp_path):
    key, store = killed_uploader(machine, s3_url, tmp_path), open_store(s3_url)
    with machine.writing() as session:
        session.scalars(select(UploadRecord)).one().started_at = utc_now() - timedelta(days=2)
    ledger = DatabaseUploads(machine.database)
    token = ledger.begin(key)
    assert abort_stale(machine.database, store, older_than_s=DAY_S) == 0
    assert list(store.unfinished_uploads(key))
    ledger.end(token)
    assert abort_stale(machine.database, store, older_than_s=DAY_S) == 1
    assert list(store.unfinished_uploads(key)) == []


def test_one_file_stored_by_many_at_once_is_one_whole_blob(s3_url, machine, big_file):
    stores = [open_store(s3_url, DatabaseUploads(machine.database)) for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        blobs = set(threads.map(lambda store: store.put_file(big_file), stores))
    assert [(blob.sha256, blob.size_bytes) for blob in stores[0].blobs()] == [
        (blob.sha256, blob.size_bytes) for blob in blobs
    ]
    assert stores[0].read(blobs.pop().sha256) == BIG
    assert rows(machine) == []
