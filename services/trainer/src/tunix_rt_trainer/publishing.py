"""Checkpoints between scratch folder, store and database. A row guarded by the claim is the only publication."""

import shutil
from pathlib import Path

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from tunix_rt_common import pipeline
from tunix_rt_common.child import Child
from tunix_rt_common.db.models import CheckpointRecord
from tunix_rt_common.errors import InvalidInput, NotFound, Unavailable
from tunix_rt_common.reports import CheckpointManifest
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder, put_folder
from tunix_rt_trainer.engine import checkpoints
from tunix_rt_trainer.engine.checkpoints import Inputs
from tunix_rt_trainer.engine.state import TrainState

FALLBACKS = 2


class CheckpointPublisher:
    """Saves and restores the state of one run, for one attempt."""

    def __init__(self, child: Child, folder: Path, seed: int, inputs: Inputs) -> None:
        self._child = child
        self._folder = folder
        self._seed = seed
        self._inputs = inputs

    def publish(self, step: int, state: TrainState) -> None:
        """Save, store every file, and only then write the row; `OwnershipLost` when somebody else has the job."""
        local = self._folder / f"step-{step}"
        metadata = checkpoints.save(state, local, seed=self._seed, inputs=self._inputs)
        files = put_folder(self._child.store, local).files
        claim = self._child.claim
        manifest = CheckpointManifest(
            run_id=str(claim.run_id),
            job_id=str(claim.job_id),
            step=step,
            files=files,
            **self._inputs.model_dump(),
            versions=metadata.versions,
            device_kind=metadata.device_kind,
            xla_flags=metadata.xla_flags,
        )
        manifest_sha256 = self._child.store.put_document(manifest)
        shutil.rmtree(local)
        with self._child.database.transaction() as session:
            pipeline.hold(session, claim)
            session.merge(
                CheckpointRecord(
                    run_id=claim.run_id,
                    step=step,
                    job_id=claim.job_id,
                    claim_id=claim.claim_id,
                    manifest_sha256=manifest_sha256,
                    size_bytes=sum(entry.size_bytes for entry in files),
                )
            )
            self._forget_old(session)
            pipeline.tell(session, claim, "checkpoint", f"checkpoint of step {step} published", {"step": step})

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest published state that is whole; None when the run starts at its beginning."""
        for row in self._published()[: 1 + FALLBACKS]:
            local = self._folder / f"restore-{row.step}"
            try:
                manifest = self._child.store.get_document(CheckpointManifest, row.manifest_sha256)
                fetch_folder(self._child.store, FolderManifest(files=manifest.files), local)
                state = checkpoints.load(local, like, inputs=self._inputs)
            except (InvalidInput, NotFound, Unavailable) as error:
                self._child.story(
                    "restore_failed", f"checkpoint of step {row.step} is unusable: {error}", step=row.step
                )
                continue
            self._child.story("restored", f"continues from the checkpoint of step {row.step}", step=row.step)
            return state
        return None

    def _published(self) -> list[CheckpointRecord]:
        with self._child.database.reading() as session:
            return list(session.scalars(self._newest_first()))

    def _forget_old(self, session: Session) -> None:
        for row in session.scalars(self._newest_first().offset(self._child.settings.keep_checkpoints)):
            session.delete(row)

    def _newest_first(self) -> Select[CheckpointRecord]:
        mine = select(CheckpointRecord).where(CheckpointRecord.run_id == self._child.claim.run_id)
        return mine.order_by(CheckpointRecord.step.desc())
