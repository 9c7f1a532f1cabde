"""An artifact store that is away, slow, cut off, or keeps other bytes than it was given."""

import time
from io import BytesIO
from uuid import UUID

import pytest
from tests.faults.suite.scene import LONG, Run, Scene
from tests.faults.suite.test_worker_faults import working_trainer
from tests.servers.fresh import open_s3

from tunix_rt_common.db.models import CheckpointRecord
from tunix_rt_common.reports import CheckpointManifest

BUCKET = "tests"


def newest_checkpoint(scene: Scene, run: Run) -> CheckpointRecord:
    found: CheckpointRecord = scene.cluster.rows(CheckpointRecord, CheckpointRecord.run_id == UUID(run.run_id))[-1]
    return found


def objects_of(scene: Scene, checkpoint: CheckpointRecord) -> list[str]:
    """The keys of what only this checkpoint consists of."""
    manifest = scene.cluster.store.get_document(CheckpointManifest, checkpoint.manifest_sha256)
    own = {entry.sha256 for entry in manifest.files}
    keys = [found.object_name for found in open_s3(scene.cluster.minio.url).list_objects(BUCKET, recursive=True)]
    return [key for key in keys if key and key.rpartition("/")[2] in own]


@pytest.mark.fault("F19")
def test_store_that_is_down_for_a_while_costs_no_run(scene):
    runs = [scene.start(LONG, judged=True) for _ in range(2)]
    scene.wait_for_checkpoint(runs[0])
    scene.cluster.minio.kill()
    time.sleep(5)
    scene.cluster.minio.start()
    scene.fault_is_over()
    scene.wait_for_end()
    assert not [event for run in runs for event in scene.story(run) if event.to_state == "quarantined"]


@pytest.mark.long
@pytest.mark.fault("F19")
def test_store_that_swallows_everything_is_waited_for(scene):
    run = scene.start(LONG)
    scene.wait_for_checkpoint(run)
    scene.cluster.minio_proxy.black_hole()
    time.sleep(8)
    scene.cluster.minio_proxy.heal()
    scene.fault_is_over()
    scene.wait_for_end()


@pytest.mark.fault("F20")
def test_checkpoint_whose_bytes_have_changed_is_not_restored(scene):
    run = scene.start(LONG * 2)
    scene.wait_for_checkpoint(run, 20)
    working_trainer(scene).freeze()
    checkpoint = newest_checkpoint(scene, run)
    client = open_s3(scene.cluster.minio.url)
    for key in objects_of(scene, checkpoint):
        size = client.stat_object(BUCKET, key).size or 0
        client.put_object(BUCKET, key, BytesIO(b"x" * size), size)
    assert any(found.startswith("I7") for found in scene.violations())
    frozen_trainer_dies(scene)
    scene.fault_is_over()
    scene.wait_for_end()
    assert next(event.detail["step"] for event in scene.told(run, "restore_failed")) == checkpoint.step


@pytest.mark.fault("F22")
def test_checkpoint_whose_blob_was_deleted_behind_us_is_found_by_the_audit_and_not_restored(scene):
    run = scene.start(LONG * 2)
    scene.wait_for_checkpoint(run, 20)
    working_trainer(scene).freeze()
    checkpoint = newest_checkpoint(scene, run)
    client = open_s3(scene.cluster.minio.url)
    for key in objects_of(scene, checkpoint):
        client.remove_object(BUCKET, key)
    assert any(found.startswith("I7") for found in scene.violations())
    frozen_trainer_dies(scene)
    scene.fault_is_over()
    scene.wait_for_end()
    assert next(event.detail["step"] for event in scene.told(run, "restore_failed")) == checkpoint.step


def frozen_trainer_dies(scene: Scene) -> None:
    working_trainer(scene).kill_all()


@pytest.mark.fault("F20")
def test_replies_of_the_store_that_end_early_are_never_taken_for_whole(scene):
    run = scene.start(LONG, judged=True)
    scene.wait_for_checkpoint(run)
    for _ in range(4):
        scene.cluster.minio_proxy.limit(300)
        working_trainer_or_none(scene)
        time.sleep(1)
        scene.cluster.minio_proxy.heal()
        time.sleep(0.5)
    scene.fault_is_over()
    scene.wait_for_end()


def working_trainer_or_none(scene: Scene) -> None:
    """Kill whoever works, so that it has to restore through what is broken."""
    for trainer in scene.cluster.trainers:
        trainer.kill_jobs()


@pytest.mark.fault("F21")
def test_slow_store_whose_connections_break_is_tried_again(scene):
    for _ in range(2):
        scene.start(LONG, judged=True)
    scene.cluster.minio_proxy.latency(0.2)
    for _ in range(8):
        scene.cluster.minio_proxy.reset_all()
        time.sleep(0.7)
    scene.cluster.minio_proxy.heal()
    scene.fault_is_over()
    scene.wait_for_end()
