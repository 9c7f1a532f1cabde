"""What every database promises, run against each dialect; a new dialect is one more entry in DIALECTS."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import IntegrityError, StatementError
from tests.servers.fresh import fresh_database

from tunix_rt_common.db.models import AliasMoveRecord, Base, EventRecord, JobRecord, TraceRow
from tunix_rt_common.db.session import database_now, open_database
from tunix_rt_common.errors import Conflict, Unavailable
from tunix_rt_common.ids import new_id
from tunix_rt_common.pipeline import Ending
from tunix_rt_common.states import JobState


@contextmanager
def sqlite_url(request, folder):
    yield f"sqlite:///{folder}/new/folder/tunix-rt.db"


@contextmanager
def postgresql_url(request, folder):
    with fresh_database(request.getfixturevalue("postgres_server").url) as url:
        yield url


DIALECTS = {"sqlite": sqlite_url, "postgresql": postgresql_url}


@pytest.fixture(params=DIALECTS)
def empty(request, tmp_path):
    """A database without tables."""
    with DIALECTS[request.param](request, tmp_path) as url:
        database = open_database(url)
        yield database
        database.migrate("base")
        database.close()


@pytest.fixture
def database(empty):
    empty.migrate()
    return empty


def trace_row(**fields):
    content = {"content_sha256": new_id().hex * 2, "prompt_sha256": "b" * 64, "document": {"n": 1}}
    return TraceRow(**(content | fields))


def count(database, kind=TraceRow):
    with database.reading() as session:
        return session.scalar(select(func.count()).select_from(kind))


def tables(database):
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_migrations_make_exactly_what_the_models_say(database):
    assert tables(database) == set(Base.metadata.tables)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_can_be_taken_back_and_made_again(database):
    database.migrate("base")
    assert tables(database) == set()
    database.migrate()
    assert tables(database) == set(Base.metadata.tables)


def test_every_migration_can_be_taken_back_by_itself_with_rows_in_the_tables(machine_on):
    """Each step down and up again: what was there before a migration is there after it was undone and redone."""
    database = machine_on.database
    job_id = machine_on.submit_run()
    machine_on.end(machine_on.claim(job_id), Ending(JobState.SUCCEEDED, "done"))
    database.migrate("0001")
    assert "spans" not in tables(database)
    database.migrate()
    assert machine_on.job(job_id).state == "succeeded"
    assert machine_on.states(job_id) == ["queued", "running", "succeeded"]


def test_program_that_is_older_than_the_schema_says_so(database):
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        with pytest.raises(Unavailable, match="9999"):
            database.check_migrated()
        with pytest.raises(Conflict, match="newer"):
            database.migrate()
    finally:
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '0002'"))


def test_database_that_nobody_migrated_is_refused_with_the_command(empty):
    with pytest.raises(Unavailable, match="python -m tunix_rt_common migrate"):
        empty.check_migrated()


def test_migrating_again_keeps_the_rows(database):
    with database.transaction() as session:
        session.add(trace_row())
    database.migrate()
    assert count(database) == 1


def test_services_that_start_together_migrate_once(empty):
    barrier = threading.Barrier(4)

    def start():
        database = open_database(empty.url)
        barrier.wait()
        database.migrate()
        database.close()

    with ThreadPoolExecutor() as pool:
        for started in [pool.submit(start) for _ in range(4)]:
            started.result()
    assert tables(empty) == set(Base.metadata.tables)


def test_transaction_keeps_all_or_nothing(database):
    def half():
        with database.transaction() as session:
            session.add(trace_row())
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert count(database) == 0


def test_reading_keeps_nothing(database):
    with suppress(Unavailable), database.reading() as session:
        session.add(trace_row())
        session.flush()
    assert count(database) == 0


def test_reading_is_not_held_up_by_a_writer(database):
    with database.transaction() as session:
        session.add(trace_row())
        session.flush()
        started = time.monotonic()
        assert count(database) == 0
        assert time.monotonic() - started < 5
    assert count(database) == 1


def test_many_writers_wait_for_each_other_and_lose_no_update(database):
    with database.transaction() as session:
        session.add(row := trace_row(document={"count": 0}))

    def add():
        for _ in range(10):
            with database.transaction() as session:
                found = session.get_one(TraceRow, row.id, with_for_update=True)
                found.document = {"count": found.document["count"] + 1}

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as session:
        assert session.get_one(TraceRow, row.id).document == {"count": 40}


def test_databases_clock_is_utc_and_moves(database):
    with database.reading() as session:
        first = database_now(session)
    time.sleep(0.005)
    with database.reading() as session:
        second = database_now(session)
    assert first.utcoffset() == timedelta(0)
    assert timedelta(0) < second - first < timedelta(seconds=10)
    assert abs(datetime.now(UTC) - second) < timedelta(seconds=10)


@pytest.mark.parametrize("offset_h", [0, -11, 5])
def test_times_come_back_as_the_same_moment_in_utc(database, offset_h):
    moment = datetime(2026, 2, 28, 23, 59, 59, 123_456, tzinfo=timezone(timedelta(hours=offset_h)))
    with database.transaction() as session:
        session.add(row := trace_row(created_at=moment))
    with database.reading() as session:
        found = session.get_one(TraceRow, row.id).created_at
        assert (found, found.utcoffset()) == (moment, timedelta(0))
        assert session.scalar(select(TraceRow.id).where(TraceRow.created_at == moment)) == row.id


def test_time_without_a_zone_is_refused(database):
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises(StatementError, match="naive time"), database.transaction() as session:
        session.add(trace_row(created_at=naive))


def test_documents_and_odd_texts_come_back_as_they_went_in(database):
    document = {"é\U0001f600": [1, 2.5, None, True, {"deep": {"er": "\n\t\"'%s"}}], "": "", "big": 2**60}
    with database.transaction() as session:
        session.add(row := trace_row(document=document, source="';--\u2028"))
    with database.reading() as session:
        found = session.get_one(TraceRow, row.id)
        assert (found.document, found.source) == (document, "';--\u2028")


def test_ids_sort_in_the_database_as_they_do_here(database):
    rows = [trace_row(id=new_id()) for _ in range(50)]
    with database.transaction() as session:
        session.add_all(rows[::-1])
    with database.reading() as session:
        assert session.scalars(select(TraceRow.id).order_by(TraceRow.id)).all() == [row.id for row in rows]


def test_numbered_rows_count_upwards(database):
    with database.transaction() as session:
        for version in (7, 8, 9):
            session.add(AliasMoveRecord(name="a", alias="b", to_version=version, reason=""))
            session.flush()
    with database.reading() as session:
        assert session.scalars(select(AliasMoveRecord.to_version).order_by(AliasMoveRecord.id)).all() == [7, 8, 9]


def test_broken_rules_are_refused(database):
    now = datetime.now(UTC)
    lonely = EventRecord(job_id=new_id(), job_kind="train", attempt=0, kind="state", message="", detail={})
    unclaimed = JobRecord(kind="train", payload={}, state="running", not_before=now, rung_at=now)
    twin = trace_row(content_sha256="c" * 64)
    with database.transaction() as session:
        session.add(trace_row(content_sha256="c" * 64))
    for row, error in ((lonely, IntegrityError), (unclaimed, IntegrityError), (twin, Conflict)):
        with pytest.raises(error), database.transaction() as session:
            session.add(row)
    assert count(database, JobRecord) == 0


def test_database_without_tables_is_unavailable_and_not_a_crash(empty):
    with pytest.raises(Unavailable, match="try again"), empty.reading() as session:
        session.execute(text("SELECT * FROM nowhere"))
