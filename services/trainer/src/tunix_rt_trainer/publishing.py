"""Checkpoints between scratch folder, store and database. A row guarded by the claim is the only publication."""

import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from tunix_rt_common import pipeline
from tunix_rt_common.child import Child
from tunix_rt_common.db.models import CheckpointRecord
from tunix_rt_common.errors import Conflict, InvalidInput, NotFound, Unavailable
from tunix_rt_common.reports import CheckpointManifest, FileEntry
from tunix_rt_common.storage.bundle import FolderManifest, fetch_folder, put_folder
from tunix_rt_trainer.engine import checkpoints
from tunix_rt_trainer.engine.checkpoints import Inputs
from tunix_rt_trainer.engine.state import TrainState
from tunix_rt_trainer.saving import SavedCheckpoint

FALLBACKS = 2


class CheckpointPublisher:
    """Publishes and restores the checkpoints of one run, for one attempt."""

    def __init__(self, child: Child, scratch: Path, inputs: Inputs) -> None:
        self._child = child
        self._scratch = scratch
        self._inputs = inputs

    def store(self, saved: SavedCheckpoint) -> str:
        """Store every file, then the manifest, and read back manifest and one file; the manifest's sha256.

        Raises:
            Conflict: the files are not what was saved: the disk has damaged them.
            Unavailable: the store is away, or does not give back what it took.
        """
        store = self._child.store
        if put_folder(store, saved.folder).files != saved.files:
            raise Conflict(f"the files of step {saved.step} changed after they were saved: check the disk")
        manifest_sha256 = store.put_document(self._manifest(saved))
        try:
            listed = store.get_document(CheckpointManifest, manifest_sha256).files
            self._verify(secrets.choice(listed))
        except NotFound as error:
            raise Unavailable(f"the store has lost what it took a moment ago ({error}): check it") from error
        return manifest_sha256

    def announce(self, saved: SavedCheckpoint, manifest_sha256: str) -> None:
        """Write the row and forget what the policy does not keep; `OwnershipLost` when somebody else has the job.

        Nothing happens when that was done before: whose commit was never answered has to ask again.
        """
        claim = self._child.claim
        row = CheckpointRecord(
            run_id=claim.run_id,
            step=saved.step,
            job_id=claim.job_id,
            claim_id=claim.claim_id,
            manifest_sha256=manifest_sha256,
            size_bytes=saved.size_bytes,
            validation_loss=saved.validation_loss,
        )
        with self._child.database.transaction() as session:
            pipeline.hold(session, claim)
            if self._is_announced(session, row):
                return
            session.merge(row)
            session.flush()
            self._forget_old(session)
            words = f"checkpoint of step {saved.step} published"
            pipeline.tell(session, claim, "checkpoint", words, {"step": saved.step})

    def restore(self, like: TrainState) -> TrainState | None:
        """The newest published state that is whole; None when the run starts at its beginning.

        Raises:
            Unavailable: the store is away. What is only damaged is passed over.
        """
        for row in self._published()[: 1 + FALLBACKS]:
            try:
                state = self._fetch_patiently(row, like)
            except (InvalidInput, NotFound, Unavailable) as error:
                self._child.store.probe()
                self._child.story(
                    "restore_failed", f"checkpoint of step {row.step} is unusable: {error}", step=row.step
                )
                continue
            self._child.story("restored", f"continues from the checkpoint of step {row.step}", step=row.step)
            return state
        return None

    def _manifest(self, saved: SavedCheckpoint) -> CheckpointManifest:
        return CheckpointManifest(
            run_id=str(self._child.claim.run_id),
            job_id=str(self._child.claim.job_id),
            step=saved.step,
            files=saved.files,
            **self._inputs.model_dump(),
            versions=saved.metadata.versions,
            device_kind=saved.metadata.device_kind,
            xla_flags=saved.metadata.xla_flags,
        )

    def _verify(self, entry: FileEntry) -> None:
        for _ in self._child.store.stream(entry.sha256):
            pass

    def _fetch_patiently(self, row: CheckpointRecord, like: TrainState) -> TrainState:
        """A second time when the store was away for a moment only."""
        try:
            return self._fetch(row, like)
        except Unavailable:
            self._child.store.probe()
            return self._fetch(row, like)

    def _fetch(self, row: CheckpointRecord, like: TrainState) -> TrainState:
        local = self._scratch / f"restore-{row.step}"
        try:
            manifest = self._child.store.get_document(CheckpointManifest, row.manifest_sha256)
            fetch_folder(self._child.store, FolderManifest(files=manifest.files), local)
            return checkpoints.load(local, like, inputs=self._inputs)
        finally:
            shutil.rmtree(local, ignore_errors=True)

    def _is_announced(self, session: Session, row: CheckpointRecord) -> bool:
        known = session.get(CheckpointRecord, (row.run_id, row.step))
        return known is not None and (known.claim_id, known.manifest_sha256) == (row.claim_id, row.manifest_sha256)

    def _published(self) -> list[CheckpointRecord]:
        with self._child.database.reading() as session:
            return list(session.scalars(self._newest_first()))

    def _newest_first(self) -> Select[CheckpointRecord]:
        mine = select(CheckpointRecord).where(CheckpointRecord.run_id == self._child.claim.run_id)
        return mine.order_by(CheckpointRecord.step.desc())

    def _forget_old(self, session: Session) -> None:
        losses = {row.step: row.validation_loss for row in session.scalars(self._newest_first())}
        settings = self._child.settings
        kept = kept_steps(losses, newest=settings.keep_checkpoints, every=settings.keep_every_steps)
        mine = CheckpointRecord.run_id == self._child.claim.run_id
        session.execute(delete(CheckpointRecord).where(mine, CheckpointRecord.step.not_in(kept)))


def kept_steps(losses: Mapping[int, float | None], *, newest: int, every: int | None) -> set[int]:
    """The steps whose checkpoints stay: the newest ones, the best by validation loss, and the multiples of `every`.

    Of equally good ones the newest is the best. `losses` has None for a step that was not validated.
    """
    kept = set(sorted(losses)[-newest:])
    validated = [(loss, -step) for step, loss in losses.items() if loss is not None]
    if validated:
        kept.add(-min(validated)[1])
    return kept | {step for step in losses if every and step % every == 0}
