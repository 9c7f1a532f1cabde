"""A dataset's build job, from its message to its published manifest."""

import threading

import pytest

from tunix_rt_common.datasets import DatasetManifest, read_rows
from tunix_rt_common.db.models import DatasetRecord, TraceRow
from tunix_rt_common.ids import new_id
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.supervisor import Supervisor
from tunix_rt_common.testing.memory_store import MemoryStore
from tunix_rt_common.traces import Trace
from tunix_rt_common.world import World
from tunix_rt_registry.handlers import JOBS


class Builder:
    """A registry worker over a few traces."""

    def __init__(self, machine):
        self.machine, self.store = machine, MemoryStore()
        self.world = World(machine.settings, machine.database, self.store)

    def add_traces(self, numbers):
        with self.machine.writing() as session:
            for number in numbers:
                one = trace(number)
                row = TraceRow(
                    content_sha256=one.content_sha256(),
                    prompt_sha256=one.prompt_sha256(),
                    document=one.model_dump(mode="json"),
                )
                session.add(row)
                session.flush()
        return row.id

    def build(self, version=1, newest=None, **fields):
        """Submit the build and let the worker do it; the dataset's row and its job."""
        spec = DatasetSpec(name="sums", **fields)
        dataset = DatasetRecord(
            id=new_id(), name="sums", version=version, spec=spec.model_dump(mode="json"), newest_trace_id=newest
        )
        with self.machine.writing() as session:
            session.add(dataset)
        job_id = self.machine.submit(dataset_id=dataset.id)
        Supervisor(self.world, dict(JOBS), threading.Event()).work_once()
        with self.machine.reading() as session:
            return session.get_one(DatasetRecord, dataset.id), self.machine.job(job_id)

    def manifest(self, dataset):
        return self.store.get_document(DatasetManifest, dataset.manifest_sha256)


def trace(number):
    """Two traces share each prompt."""
    record = {
        "prompt": f"{number // 2}=",
        "steps": [{"i": 0, "type": "a", "content": str(number)}],
        "final_answer": str(number),
    }
    return Trace.model_validate(record)


@pytest.fixture
def builder(machine):
    return Builder(machine)


def test_build_publishes_a_manifest_whose_shards_are_in_the_store(builder):
    builder.add_traces(range(40))
    dataset, job = builder.build(version=3, rows_per_shard=8)
    manifest = builder.manifest(dataset)
    assert (job.state, job.result["rows"], manifest.version) == ("succeeded", 40, 3)
    assert dataset.dataset_sha256 == manifest.dataset_sha256
    rows = [row for shard in manifest.shards for row in read_rows(builder.store.read(shard.sha256).splitlines())]
    assert sorted(int(row.final_answer) for row in rows) == list(range(40))


def test_all_traces_of_a_prompt_are_in_one_split(builder):
    builder.add_traces(range(60))
    manifest = builder.manifest(builder.build(test_fraction=0.3, validation_fraction=0.2)[0])
    groups = {}
    for shard in manifest.shards:
        for row in read_rows(builder.store.read(shard.sha256).splitlines()):
            groups.setdefault(row.group, set()).add(shard.split)
    assert {len(splits) for splits in groups.values()} == {1}
    assert {split for splits in groups.values() for split in splits} == {"train", "validation", "test"}


def test_equal_content_has_an_equal_digest_whenever_and_wherever_it_is_built(builder, open_machine, tmp_path):
    newest = builder.add_traces(range(20))
    first, _ = builder.build(version=1)
    builder.add_traces(range(20, 30))
    pinned, _ = builder.build(version=2, newest=newest)
    elsewhere = Builder(open_machine(tmp_path / "elsewhere"))
    elsewhere.add_traces(range(20))
    other, _ = elsewhere.build()
    elsewhere.machine.database.close()
    assert first.dataset_sha256 == pinned.dataset_sha256 == other.dataset_sha256
    assert builder.build(version=3)[0].dataset_sha256 != first.dataset_sha256


def test_another_split_or_shard_size_is_another_dataset(builder):
    builder.add_traces(range(20))
    digests = {
        builder.build(version=version, **fields)[0].dataset_sha256
        for version, fields in enumerate(({}, {"seed": 1}, {"test_fraction": 0.5}, {"rows_per_shard": 3}), start=1)
    }
    assert len(digests) == 4


def test_empty_selection_is_the_users_error_and_is_not_retried(builder):
    builder.add_traces(range(4))
    dataset, job = builder.build(filters={"source": "nowhere"})
    assert (job.state, job.failure_class, job.attempt) == ("failed", "user_error", 1)
    assert "no trace passes the filters" in job.failure
    assert dataset.manifest_sha256 is None
    assert list(builder.store.blobs()) == []


def test_build_leaves_no_scratch_files(builder):
    builder.add_traces(range(4))
    builder.build()
    builder.build(version=2, filters={"source": "nowhere"})
    assert list(builder.machine.settings.scratch_dir.iterdir()) == []
