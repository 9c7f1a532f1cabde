"""The ledger of uploads in each database, with a store that has no uploads in parts."""

from datetime import timedelta

from sqlalchemy import select

from tunix_rt_common.db.models import UploadRecord, utc_now
from tunix_rt_common.testing.memory_store import MemoryStore
from tunix_rt_common.uploads import DatabaseUploads, abort_stale

DAY_S = 86_400.0


def keys(machine):
    with machine.reading() as session:
        return sorted(session.scalars(select(UploadRecord.key)))


def make_old(machine, key):
    with machine.writing() as session:
        session.scalars(select(UploadRecord).where(UploadRecord.key == key)).one().started_at = utc_now() - timedelta(
            days=2
        )


def test_complete_upload_is_forgotten(machine_on):
    ledger = DatabaseUploads(machine_on.database)
    one, _ = ledger.begin("one"), ledger.begin("two")
    ledger.end(one)
    ledger.end(one)
    assert keys(machine_on) == ["two"]


def test_sweep_forgets_what_is_old_and_keeps_what_is_young(machine_on):
    ledger = DatabaseUploads(machine_on.database)
    for key in ("old", "young"):
        ledger.begin(key)
    make_old(machine_on, "old")
    assert abort_stale(machine_on.database, MemoryStore(), DAY_S) == 1
    assert keys(machine_on) == ["young"]
    assert abort_stale(machine_on.database, MemoryStore(), DAY_S) == 0


def test_sweep_waits_with_a_key_that_is_uploaded_now(machine_on):
    ledger = DatabaseUploads(machine_on.database)
    ledger.begin("key")
    make_old(machine_on, "key")
    ledger.begin("key")
    assert abort_stale(machine_on.database, MemoryStore(), DAY_S) == 0
    assert keys(machine_on) == ["key", "key"]
