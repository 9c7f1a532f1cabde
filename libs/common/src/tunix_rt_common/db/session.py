"""Opening the database and making transactions."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, DateTime, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement

from tunix_rt_common.errors import Unavailable

SQLITE_BUSY_TIMEOUT_MS = 30_000


class DatabaseClock(FunctionElement[datetime]):
    """The database's own time, the only clock that leases know."""

    type = DateTime(timezone=True)
    inherit_cache = True


@compiles(DatabaseClock, "postgresql")
def _postgresql_clock(*_: Any, **__: Any) -> str:
    return "clock_timestamp()"


@compiles(DatabaseClock, "sqlite")
def _sqlite_clock(*_: Any, **__: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def database_now(session: Session) -> datetime:
    """What time the database says it is, UTC."""
    now: datetime = session.execute(DatabaseClock().select()).scalar_one()
    return now if now.tzinfo else now.replace(tzinfo=UTC)


class Database:
    """One engine; `transaction()` writes, `reading()` reads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _open_engine(url)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A unit of work: committed as a whole when the block ends, rolled back when it raises."""
        with _translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view that takes no write lock; nothing done in it is kept."""
        engine = self.engine.execution_options(begins="DEFERRED")
        with _translated(), Session(engine, expire_on_commit=False) as session:
            yield session

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to `revision`; safe to call on every start."""
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.begin() as connection:
            config.attributes["connection"] = connection
            move = command.downgrade if revision == "base" else command.upgrade
            move(config, revision)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """The database behind a URL; SQLite files are created, with their folder, on first use."""
    return Database(url)


def _open_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
    _write_ahead(connection)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _write_ahead(connection: Any) -> None:
    """Switch the journal: on a fresh file that others open too, SQLite refuses at once instead of waiting."""
    deadline = time.monotonic() + SQLITE_BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once: a transaction that upgrades late cannot wait for it and fails instead."""
    begins = connection.get_execution_options().get("begins", "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {begins}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OperationalError as error:
        raise Unavailable(f"the database does not answer ({error.orig}): try again in a moment") from error
