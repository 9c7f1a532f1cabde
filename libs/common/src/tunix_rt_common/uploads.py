"""Uploads in parts that are under way, in the database, so that the sweeper finds what killed processes have left.

S3 keeps the parts of an unfinished upload, unseen and paid for, until somebody aborts it; MinIO ignores the bucket
rule that would, and lists such uploads by whole keys only. So a key is written down before its upload begins.
"""

from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, exists, select

from tunix_rt_common.db.models import UploadRecord
from tunix_rt_common.db.session import Database, database_now
from tunix_rt_common.ids import new_id
from tunix_rt_common.storage import ArtifactStore


class DatabaseUploads:
    """The ledger of uploads as rows. Each call is a transaction of its own: do not put files inside of another."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, key: str) -> UUID:
        """Write the key down; committed before the upload begins."""
        upload = UploadRecord(id=new_id(), key=key)
        with self._database.transaction() as session:
            upload.started_at = database_now(session)
            session.add(upload)
        return upload.id

    def end(self, token: UUID) -> None:
        """Forget a complete upload."""
        with self._database.transaction() as session:
            session.execute(delete(UploadRecord).where(UploadRecord.id == token))


def abort_stale(database: Database, store: ArtifactStore, older_than_s: float) -> int:
    """Abort what uploads older than this have left, and forget them; how many keys were cleaned.

    Choose it longer than any upload takes: one that is still going on is aborted, too, and its process gets
    `Unavailable`. Safe when several sweep. A key that somebody else uploads just now waits for the next sweep.
    """
    with database.reading() as session:
        cutoff = database_now(session) - timedelta(seconds=older_than_s)
        stale = set(session.scalars(select(UploadRecord.key).where(UploadRecord.started_at < cutoff)))
    return sum(_clean(database, store, key, cutoff) for key in sorted(stale))


def _clean(database: Database, store: ArtifactStore, key: str, cutoff: datetime) -> bool:
    """Listed before asking who is at it: an upload that we see was written down before it began."""
    left = store.unfinished_uploads(key)
    of_key = UploadRecord.key == key
    with database.reading() as session:
        if session.scalar(select(exists().where(of_key, UploadRecord.started_at >= cutoff))):
            return False
    for upload_id in left:
        store.abort_upload(key, upload_id)
    with database.transaction() as session:
        session.execute(delete(UploadRecord).where(of_key, UploadRecord.started_at < cutoff))
    return True
