"""Opening the database and making transactions."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import URL, Connection, DateTime, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement

from tunix_rt_common.errors import Conflict, InvalidInput, Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

SQLITE_BUSY_TIMEOUT_MS = 30_000
POSTGRES_SESSION = {
    "timezone": "utc",
    "statement_timeout": "30s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "30s",
}
POSTGRES_CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "options": " ".join(f"-c {name}={value}" for name, value in POSTGRES_SESSION.items()),
}
READS: dict[str, dict[str, Any]] = {
    "sqlite": {"begins": "DEFERRED"},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
DUPLICATES = {"23505", "SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY"}
MISFITS = {"42P01", "42703", "42501"}
"""SQLSTATEs of a missing table or column, and of a missing privilege."""
POOL_SIZE, POOL_OVERFLOW, POOL_PATIENCE_S = 10, 20, 10.0
MIGRATION_LOCK = 0x7475_6E69_7872_7400


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


Listener = Callable[[Session], None]


class Database:
    """One engine; `transaction()` writes, `reading()` reads."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _open_engine(url)
        self._listeners: list[Listener] = []

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A unit of work: committed as a whole when the block ends, rolled back when it raises."""
        with _translated(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session
        for listener in self._listeners:
            listener(session)

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        """While the block lasts, tell somebody of every transaction that this process has committed."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A consistent view that takes no write lock; nothing done in it is kept."""
        engine = self.engine.execution_options(**READS[self.engine.dialect.name])
        with _translated(), Session(engine, expire_on_commit=False) as session:
            yield session

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema to `revision`, up or down; safe to call on every start, and from many processes at once."""
        from alembic import command
        from alembic.script import ScriptDirectory

        config = _migrations()
        with _translated(), self._sole_migration() as connection:
            config.attributes["connection"] = connection
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            current = _revision(connection)
            if current is not None and current not in known:
                raise Conflict(f"the database's schema {current} is newer than this program: install a newer one")
            wanted = "" if revision == "base" else revision
            down = revision != "head" and current is not None and wanted < current
            (command.downgrade if down else command.upgrade)(config, revision)

    @contextmanager
    def _sole_migration(self) -> Iterator[Connection]:
        """A transaction that no other migration shares.

        SQLite changes a table by replacing it, which its foreign keys would refuse; they are checked at the end.
        """
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "sqlite":
                connection.connection.cursor().execute("PRAGMA foreign_keys = OFF")
            try:
                with connection.begin():
                    if self.engine.dialect.name == "postgresql":
                        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
                        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
                    yield connection
                    if self.engine.dialect.name == "sqlite":
                        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                        assert not broken, f"the migration lost rows: {broken[:5]}"  # noqa: S101
            finally:
                connection.invalidate()

    def check_migrated(self) -> None:
        """`Unavailable`, with the command to run, unless the schema is the one that this program knows."""
        from alembic.script import ScriptDirectory

        head = ScriptDirectory.from_config(_migrations()).get_current_head()
        with _translated(), self.engine.connect() as connection:
            current = _revision(connection)
        if current != head:
            raise Unavailable(
                f"the database's schema is {current or 'empty'}, this program needs {head}: "
                "run `python -m tunix_rt_common migrate`"
            )

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """The database behind a URL; SQLite files are created, with their folder, on first use."""
    return Database(url)


def _open_engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise _no_adapter(url) from None
    if parsed.drivername == "postgresql+psycopg":
        return _open_postgresql(parsed)
    if parsed.drivername != "sqlite":
        raise _no_adapter(parsed.drivername)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _no_adapter(url: str) -> InvalidInput:
    return InvalidInput(
        f"no database adapter for {url.partition('://')[0]!r}: use sqlite:///FILE or "
        "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE",
        field="TUNIX_RT_DATABASE_URL",
    )


def _open_postgresql(url: URL) -> Engine:
    """An engine whose every wait has an end: connecting, a silent peer, a statement, a lock, the pool."""
    given = {name: value for name, value in POSTGRES_CONNECTION.items() if name not in url.query}
    return create_engine(
        url,
        connect_args=given,
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_PATIENCE_S,
        pool_recycle=1800,
    )


def _migrations() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _revision(connection: Connection) -> str | None:
    from alembic.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


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
    """The driver's errors as ours: `Unavailable` may work later, `Conflict` means somebody was faster."""
    try:
        yield
    except (OperationalError, InterfaceError, InternalError) as error:
        if "no such table" in _words(error):
            raise _unfit(error) from error
        raise Unavailable(f"the database does not answer ({_words(error)}): try again in a moment") from error
    except PoolTimeout as error:
        raise Unavailable("all database connections are busy: try again in a moment") from error
    except IntegrityError as error:
        if not DUPLICATES & {getattr(error.orig, "sqlstate", None), getattr(error.orig, "sqlite_errorname", None)}:
            raise
        raise Conflict("somebody else wrote the same at this moment: read again, then decide") from error
    except DataError as error:
        raise InvalidInput(f"the database cannot store this ({_words(error)}): remove it") from error
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) not in MISFITS:
            raise
        raise _unfit(error) from error


def _unfit(error: DBAPIError) -> Unavailable:
    return Unavailable(
        f"the database is not ready for this program ({_words(error)}): run `python -m tunix_rt_common migrate`, "
        "then try again"
    )


def _words(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]
