"""Checkpoints on their way from this machine's disk to the store, in order and beside training.

A store or a database that is away does not end training: its checkpoints wait on this machine's disk and are tried
again. When too many wait, no further one is taken until one of them is through.
"""

import math
import shutil
import threading
import time
from collections import deque
from typing import NoReturn

from tunix_rt_common.child import Child, ToldToLeave
from tunix_rt_common.errors import Conflict, TunixError, Unavailable
from tunix_rt_trainer.publishing import CheckpointPublisher
from tunix_rt_trainer.saving import SavedCheckpoint

PATIENCE_S = 30.0
"""An upload that goes well is awaited so long before the next checkpoint is taken."""
RETRY_S = 5.0
"""Between the end of a try that failed and the next; longer by what the try took."""
LAST_TRY_S = 2.0
"""For one who leaves a store that is in trouble already: a healthy one gets all the time that the supervisor gives."""
POLL_S = 1.0


class Upload(threading.Thread):
    """One try to publish a checkpoint. A daemon: nobody who leaves waits for a store that hangs."""

    def __init__(self, publisher: CheckpointPublisher, saved: SavedCheckpoint) -> None:
        super().__init__(name=f"publish-{saved.step}", daemon=True)
        self._publisher = publisher
        self.saved = saved
        self.needs = "artifact store"
        self.published = False
        self.error: TunixError | None = None
        self.began_s = time.monotonic()

    def run(self) -> None:
        """Store, then announce."""
        try:
            manifest_sha256 = self._publisher.store(self.saved)
            self.needs = "database"
            self._publisher.announce(self.saved, manifest_sha256)
            self.published = True
        except TunixError as error:
            self.error = error


class Handover:
    """What one attempt has saved and not yet published. Used by one thread at a time."""

    @property
    def is_waiting(self) -> bool:
        """Whether a checkpoint is not published yet."""
        return bool(self._waiting)

    def __init__(self, child: Child, publisher: CheckpointPublisher) -> None:
        self._child = child
        self._publisher = publisher
        self._waiting: deque[SavedCheckpoint] = deque()
        self._upload: Upload | None = None
        self._trouble: str | None = None
        self._failures = 0
        self._next_try_s = 0.0

    def add(self, saved: SavedCheckpoint) -> None:
        """Publish a checkpoint, or keep it for later; waits as long as more wait than may.

        Raises:
            OwnershipLost: somebody else has the job.
            ToldToLeave: while waiting.
        """
        self._waiting.append(saved)
        if len(self._waiting) == 1:
            self._await_first_try()
        self._wait_until_at_most(self._child.settings.unsaved_checkpoints)

    def poll(self) -> None:
        """Without waiting: see what became of the try under way, and begin the next when it is time.

        Raises:
            OwnershipLost: somebody else has the job.
        """
        if self._upload and not self._upload.is_alive():
            upload, self._upload = self._upload, None
            self._note(upload)
        if self._waiting and not self._upload and time.monotonic() >= self._next_try_s:
            self._upload = Upload(self._publisher, self._waiting[0])
            self._upload.start()

    def drain(self) -> None:
        """After the last step: wait until all are published. Raises as `add` does."""
        self._wait_until_at_most(0)

    def leave(self) -> NoReturn:
        """Try each once more, then leave. What the store does not take now is lost with this attempt.

        Raises:
            ToldToLeave: always, unless `OwnershipLost`.
        """
        patient_until = time.monotonic() + (LAST_TRY_S if self._trouble else math.inf)
        failures, self._next_try_s = self._failures, 0.0
        while self._waiting and self._failures == failures and time.monotonic() < patient_until:
            self.poll()
            self._wait()
        if self._waiting:
            steps = ", ".join(str(saved.step) for saved in self._waiting)
            self._child.story("checkpoints_lost", f"leaves without publishing the checkpoints of step {steps}")
        raise ToldToLeave

    def _await_first_try(self) -> None:
        """One after the other where all is well: a checkpoint is published before training goes on."""
        self.poll()
        patient_until = time.monotonic() + PATIENCE_S
        while self._upload and self._upload.is_alive() and time.monotonic() < patient_until:
            if self._child.leaving.is_set():
                return
            self._upload.join(POLL_S)
        self.poll()

    def _wait_until_at_most(self, limit: int) -> None:
        paused = False
        while len(self._waiting) > limit:
            if self._child.leaving.is_set():
                self.leave()
            if self._trouble and not paused:
                paused = True
                self._child.story("paused", f"paused: {self._trouble}", waiting=len(self._waiting))
            self._child.waits()
            self._wait()
            self.poll()
        if paused:
            self._child.story("continued", "continues: checkpoints are published again")

    def _wait(self) -> None:
        if self._upload:
            self._upload.join(POLL_S)
        else:
            self._child.leaving.wait(POLL_S)

    def _note(self, upload: Upload) -> None:
        if isinstance(upload.error, Unavailable):
            self._postpone(upload, upload.error)
            return
        if isinstance(upload.error, Conflict):
            self._child.story("checkpoint_damaged", f"{upload.error}; it is dropped", step=upload.saved.step)
        elif upload.error:
            raise upload.error
        elif not upload.published:
            raise RuntimeError(f"publishing step {upload.saved.step} broke off: its trace is in the logs")
        self._waiting.popleft()
        shutil.rmtree(upload.saved.folder, ignore_errors=True)
        self._trouble, self._next_try_s = None, 0.0

    def _postpone(self, upload: Upload, error: Unavailable) -> None:
        now = time.monotonic()
        self._failures += 1
        self._next_try_s = now + RETRY_S + (now - upload.began_s)
        if self._trouble is None:
            words = f"checkpoint of step {upload.saved.step} waits on this machine: the {upload.needs} is away"
            self._child.story("checkpoint_waits", f"{words} ({error})", step=upload.saved.step)
        self._trouble = f"the {upload.needs} is away ({error})"
