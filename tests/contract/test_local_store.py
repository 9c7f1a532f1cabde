"""The local store where a disk misbehaves: nothing half-written ever has a name."""

import resource
import signal
import threading

import pytest

from tunix_rt_common.errors import InvalidInput, Unavailable
from tunix_rt_common.storage import open_store
from tunix_rt_common.storage.local import LocalStore

BIG = b"0123456789abcdef" * 262_144


@pytest.fixture
def full_disk():
    """No file of this process may grow beyond a mebibyte: a write fails in the middle, as on a full disk."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, ignored)


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_disk_that_fills_up_in_the_middle_leaves_no_half_blob(tmp_path, full_disk):
    store = LocalStore(tmp_path / "artifacts")
    with pytest.raises(Unavailable, match="takes no files") as refused:
        store.put_bytes(BIG)
    assert refused.value.retryable
    assert files_in(tmp_path / "artifacts") == []
    small = store.put_bytes(b"small")
    assert store.read(small.sha256) == b"small"


def test_folder_that_takes_no_files_is_unavailable(tmp_path):
    (tmp_path / "artifacts").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="free some space"):
        LocalStore(tmp_path / "artifacts").put_bytes(b"content")


def test_source_that_breaks_off_leaves_no_half_blob(tmp_path):
    unreadable = tmp_path / "directory"
    unreadable.mkdir()
    store = LocalStore(tmp_path / "artifacts")
    with pytest.raises(OSError, match="directory"):
        store.put_file(unreadable)
    with pytest.raises(FileNotFoundError):
        store.put_file(tmp_path / "absent")
    assert files_in(tmp_path) == []


def test_one_content_put_by_many_at_once_is_one_whole_blob(tmp_path):
    store, names = LocalStore(tmp_path / "artifacts"), set()
    threads = [threading.Thread(target=lambda: names.add(store.put_bytes(BIG).sha256)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in files_in(tmp_path / "artifacts")] == [*names]
    assert store.read(*names) == BIG


def test_blobs_outlive_the_process_that_stored_them(tmp_path):
    url = f"file://{tmp_path}/artifacts"
    sha256 = open_store(url).put_bytes(b"content").sha256
    assert open_store(url).read(sha256) == b"content"


@pytest.mark.parametrize("url", ["ftp://somewhere", "", "/just/a/path"])
def test_store_url_that_nobody_serves_is_refused_with_what_to_use(url):
    with pytest.raises(InvalidInput, match="use file:///FOLDER") as refused:
        open_store(url)
    assert refused.value.field == "TUNIX_RT_ARTIFACTS_URL"
