"""What every artifact store promises, run against each adapter; a new adapter is one more entry in STORES."""

import hashlib

import pytest
from pydantic import BaseModel

from tunix_rt_common.errors import InvalidInput, NotFound, Unavailable
from tunix_rt_common.storage import Blob
from tunix_rt_common.storage.base import CHUNK_BYTES
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder, put_folder
from tunix_rt_common.storage.local import LocalStore
from tunix_rt_common.testing.memory_store import MemoryStore


class LocalWorld:
    """A local store, and ways around its front door."""

    def __init__(self, folder):
        self.folder = folder / "artifacts"
        self.store = LocalStore(self.folder)

    def damage(self, sha256, content):
        (self.folder / "blobs" / "sha256" / sha256[:2] / sha256).write_bytes(content)

    def names(self):
        return sorted(path.name for path in self.folder.rglob("*") if path.is_file())


class MemoryWorld:
    """The same for a store in memory."""

    def __init__(self, folder):
        self.store = MemoryStore()

    def damage(self, sha256, content):
        self.store.blobs[sha256] = content

    def names(self):
        return sorted(self.store.blobs)


STORES = {"local": LocalWorld, "memory": MemoryWorld}
CONTENTS = {"empty": b"", "binary": bytes(range(256)), "chunks": b"0123456789abcdef" * (CHUNK_BYTES // 4) + b"end"}
ABSENT = "0" * 64


class Note(BaseModel):
    words: str
    numbers: tuple[int, ...] = ()


@pytest.fixture(params=STORES)
def world(request, tmp_path):
    return STORES[request.param](tmp_path)


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
