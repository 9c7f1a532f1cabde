"""A run's whole output as one blob, beyond what any answer carries."""

import tempfile
from pathlib import Path

from sqlalchemy import select

from tunix_rt_common.db.models import LogRecord
from tunix_rt_common.db.session import Database
from tunix_rt_common.pipeline import Claim
from tunix_rt_common.storage import ArtifactStore


def archive_logs(database: Database, store: ArtifactStore, claim: Claim) -> str | None:
    """Store what the run's stages have written so far, in order; None where nothing was written."""
    wanted = select(LogRecord.chunk).where(LogRecord.run_id == claim.run_id).order_by(LogRecord.id)
    with database.reading() as session, tempfile.NamedTemporaryFile() as file:
        file.writelines(session.scalars(wanted.execution_options(yield_per=100)))
        file.flush()
        return store.put_file(Path(file.name)).sha256 if file.tell() else None
