"""What every artifact store promises, run against each adapter; a new adapter is one more entry in STORES."""

import hashlib
import io
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel
from tests.servers.fresh import fresh_prefix, open_s3

from tunix_rt_common.errors import InvalidInput, NotFound, Unavailable
from tunix_rt_common.storage import Blob, open_store
from tunix_rt_common.storage.base import CHUNK_BYTES
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder, put_folder
from tunix_rt_common.storage.local import LocalStore
from tunix_rt_common.testing.memory_store import MemoryStore


class LocalWorld:
    """A local store, and ways around its front door."""

    def __init__(self, request, folder):
        self.folder = folder / "artifacts"
        self.store = LocalStore(self.folder)

    def damage(self, sha256, content):
        (self.folder / "blobs" / "sha256" / sha256[:2] / sha256).write_bytes(content)

    def add_stranger(self):
        (self.folder / "blobs" / "sha256" / "no").mkdir()
        (self.folder / "blobs" / "sha256" / "no" / "blob.txt").write_text("nobody knows why this is here")

    def names(self):
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


class MemoryWorld:
    """The same for a store in memory."""

    def __init__(self, request, folder):
        self.store = MemoryStore()

    def damage(self, sha256, content):
        self.store.contents[sha256] = content

    def add_stranger(self):
        """Nobody else can reach it."""

    def names(self):
        return sorted(self.store.contents)


class S3World:
    """The same for an S3 server of a kind."""

    def __init__(self, server):
        self.server = server

    def __call__(self, request, folder):
        url = fresh_prefix(request.getfixturevalue(self.server).url)
        self.client, self.bucket, self.prefix = open_s3(url), urlsplit(url).netloc, urlsplit(url).path.strip("/")
        self.store = open_store(url)
        return self

    def damage(self, sha256, content):
        self.write(f"blobs/sha256/{sha256[:2]}/{sha256}", content)

    def add_stranger(self):
        self.write("blobs/sha256/no/blob.txt", b"nobody knows why this is here")

    def write(self, name, content):
        self.client.put_object(self.bucket, f"{self.prefix}/{name}", io.BytesIO(content), len(content))

    def names(self):
        found = self.client.list_objects(self.bucket, f"{self.prefix}/", recursive=True)
        return sorted(one.object_name.rpartition("/")[2] for one in found)


STORES = {
    "local": LocalWorld,
    "memory": MemoryWorld,
    "minio": S3World("minio_server"),
    "versitygw": S3World("second_s3_server"),
}
CONTENTS = {"empty": b"", "binary": bytes(range(256)), "chunks": b"0123456789abcdef" * (CHUNK_BYTES // 4) + b"end"}
ABSENT = "0" * 64
TOMORROW = datetime.now(UTC) + timedelta(days=1)


class Note(BaseModel):
    words: str
    numbers: tuple[int, ...] = ()


@pytest.fixture(params=STORES)
def world(request, tmp_path):
    return STORES[request.param](request, tmp_path)


@pytest.fixture
def store(world):
    return world.store


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_blob_is_named_by_its_hash_and_comes_back_byte_for_byte(store, tmp_path, content):
    file = tmp_path / "file"
    file.write_bytes(content)
    blob = store.put_file(file)
    assert blob == Blob(hashlib.sha256(content).hexdigest(), len(content))
    assert store.put_bytes(content) == blob
    assert store.read(blob.sha256) == content
    assert store.size_bytes(blob.sha256) == len(content)
    with store.open(blob.sha256) as source:
        assert source.read() == content
    store.fetch(blob.sha256, tmp_path / "new" / "folder" / "copy")
    assert (tmp_path / "new" / "folder" / "copy").read_bytes() == content


def test_same_content_put_twice_is_one_blob(world, tmp_path):
    (tmp_path / "one").write_bytes(b"same")
    (tmp_path / "two").write_bytes(b"same")
    names = {world.store.put_file(tmp_path / "one").sha256, world.store.put_file(tmp_path / "two").sha256}
    assert {*world.names()} == {*names, world.store.put_bytes(b"same").sha256}
    assert len(names) == 1


def test_size_of_a_blob_that_is_not_there_is_not_found(store):
    with pytest.raises(NotFound):
        store.size_bytes("0" * 64)


def test_big_blob_streams_in_chunks(store):
    content = CONTENTS["chunks"]
    chunks = list(store.stream(store.put_bytes(content).sha256))
    assert b"".join(chunks) == content
    assert len(chunks) > 1
    assert max(map(len, chunks)) <= CHUNK_BYTES


@pytest.mark.parametrize("damage", [b"another", b"", b"content and more"])
def test_damage_is_found_on_every_way_out(world, tmp_path, damage):
    sha256 = world.store.put_bytes(b"content").sha256
    world.damage(sha256, damage)
    with pytest.raises(Unavailable, match="is damaged"):
        world.store.read(sha256)
    with pytest.raises(Unavailable, match="is damaged"):
        list(world.store.stream(sha256))
    with pytest.raises(Unavailable, match="is damaged"):
        world.store.fetch(sha256, tmp_path / "fetched" / "file")
    assert list((tmp_path / "fetched").iterdir()) == []


def test_damaged_fetch_leaves_the_file_that_was_there(world, tmp_path):
    sha256 = world.store.put_bytes(b"content").sha256
    world.damage(sha256, b"another")
    target = tmp_path / "file"
    target.write_bytes(b"before")
    with pytest.raises(Unavailable):
        world.store.fetch(sha256, target)
    assert target.read_bytes() == b"before"


def test_damaged_blob_is_whole_again_once_it_is_put_again(world):
    sha256 = world.store.put_bytes(b"content").sha256
    world.damage(sha256, b"another")
    world.store.put_bytes(b"content")
    assert world.store.read(sha256) == b"content"


@pytest.mark.parametrize(
    "name",
    [ABSENT, "", "0" * 63, "A" * 64, "0" * 64 + "\n", "../" * 20 + "0000", "g" * 64, "/etc/passwd", "0" * 100_000],
)
def test_name_that_is_no_stored_blobs_is_not_found(store, tmp_path, name):
    store.put_bytes(b"content")
    with pytest.raises(NotFound) as refused:
        store.open(name)
    assert len(str(refused.value)) < 300
    with pytest.raises(NotFound):
        store.read(name)
    with pytest.raises(NotFound):
        store.fetch(name, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_document_is_stored_as_canonical_json_and_comes_back_validated(store):
    note = Note(words="é", numbers=(1, 2))
    sha256 = store.put_document(note)
    assert store.read(sha256) == '{"numbers":[1,2],"words":"é"}'.encode()
    assert store.get_document(Note, sha256) == note


def test_folder_comes_back_as_it_was_and_equal_folders_have_equal_manifests(store, tmp_path):
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "b.bin").write_bytes(b"\x00\xff")
        (folder / "a.txt").write_text("a")
    manifest = put_folder(store, tmp_path / "one")
    assert manifest == put_folder(store, tmp_path / "two")
    assert ([entry.path for entry in manifest.files], manifest.size_bytes) == (["a.txt", "sub/b.bin"], 3)
    stored = store.get_document(FolderManifest, store.put_document(manifest))
    fetch_folder(store, stored, tmp_path / "copy")
    assert put_folder(store, tmp_path / "copy") == manifest


@pytest.mark.parametrize("target", ["/etc/hostname", "a.txt", "nowhere", "."])
def test_folder_with_a_link_is_refused_before_anything_is_stored(world, tmp_path, target):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "link").symlink_to(target)
    with pytest.raises(InvalidInput, match="link is a symbolic link"):
        put_folder(world.store, folder)
    assert world.names() == []


def test_stored_blobs_are_listed_with_size_and_age(world):
    expected = {world.store.put_bytes(content) for content in (b"one", b"three", b"")}
    world.add_stranger()
    listed = list(world.store.blobs())
    assert {Blob(blob.sha256, blob.size_bytes) for blob in listed} == expected
    assert len(listed) == 3
    assert all(abs(datetime.now(UTC) - blob.modified_at) < timedelta(minutes=5) for blob in listed)


def test_empty_store_lists_nothing(store):
    assert list(store.blobs()) == []


def test_deleted_blob_is_gone_and_the_others_stay(store):
    gone, kept = store.put_bytes(b"gone").sha256, store.put_bytes(b"kept").sha256
    assert store.delete(gone, TOMORROW)
    assert not store.delete(gone, TOMORROW)
    assert [blob.sha256 for blob in store.blobs()] == [kept]
    with pytest.raises(NotFound):
        store.read(gone)
    assert store.read(store.put_bytes(b"gone").sha256) == b"gone"


def test_blob_that_was_put_since_a_moment_is_not_deleted(store):
    sha256 = store.put_bytes(b"young").sha256
    assert not store.delete(sha256, datetime.now(UTC) - timedelta(minutes=5))
    assert store.read(sha256) == b"young"


@pytest.mark.parametrize("name", ["", "../x", "A" * 64])
def test_delete_of_a_name_that_is_no_blobs_is_refused(store, name):
    with pytest.raises(NotFound):
        store.delete(name, TOMORROW)


@pytest.mark.parametrize("expires_s", [0, -1, 301])
def test_link_that_lives_too_long_or_not_at_all_is_refused(store, expires_s):
    with pytest.raises(InvalidInput, match="lives for 1 to 300 seconds"):
        store.presigned_url(ABSENT, filename="a.txt", expires_s=expires_s)


def test_link_without_a_file_name_is_refused(store):
    with pytest.raises(InvalidInput, match="needs a file name"):
        store.presigned_url(ABSENT, filename="")


def test_store_that_browsers_cannot_reach_hands_out_no_links(store):
    assert store.presigned_url(store.put_bytes(b"content").sha256, filename="a.txt", expires_s=300) is None


def test_probe_finds_that_the_store_works_and_leaves_nothing_behind(world):
    world.store.probe()
    assert world.names() == []


def test_upload_that_nobody_began_is_aborted_without_a_word(store):
    key = f"blobs/sha256/00/{ABSENT}"
    assert list(store.unfinished_uploads(key)) == []
    store.abort_upload(key, "00000000-0000-0000-0000-000000000000")
