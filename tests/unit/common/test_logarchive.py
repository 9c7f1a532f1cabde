from tunix_rt_common.db.models import LogRecord
from tunix_rt_common.logarchive import archive_logs
from tunix_rt_common.testing.memory_store import MemoryStore


def write(machine, claim, *chunks):
    with machine.writing() as session:
        for chunk in chunks:
            log = LogRecord(run_id=claim.run_id, job_id=claim.job_id, attempt=1, stream="stdout", chunk=chunk)
            session.add(log)
            session.flush()


def test_archive_is_the_runs_output_in_order_and_nobody_elses(machine):
    mine, other, store = machine.claim(machine.submit_run()), machine.claim(machine.submit_run()), MemoryStore()
    write(machine, mine, b"one \xff", b"two ")
    write(machine, other, b"not mine")
    write(machine, mine, b"three")
    assert store.read(archive_logs(machine.database, store, mine)) == b"one \xfftwo three"


def test_silent_run_has_no_archive(machine):
    store = MemoryStore()
    assert archive_logs(machine.database, store, machine.claim(machine.submit_run())) is None
    assert archive_logs(machine.database, store, machine.claim(machine.submit())) is None
    assert list(store.blobs()) == []
