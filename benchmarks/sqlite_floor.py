"""What SQLite alone does with the same rows: the floor under imports and commits."""

import sqlite3
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from measurement import median_seconds, seconds

ROWS_PER_COMMIT = 200
COMMITS = 200
TABLE = """CREATE TABLE traces (id BLOB PRIMARY KEY, content_sha256 TEXT UNIQUE, prompt_sha256 TEXT, source TEXT,
    document TEXT, created_at TEXT)"""
INSERT = "INSERT INTO traces VALUES (?, ?, ?, ?, ?, ?)"
Row = tuple[bytes, str, str, str, str, str]


def insert_seconds(path: Path, lines: Sequence[bytes]) -> float:
    """How long SQLite takes for ready-made rows of the platform's columns and indexes, 200 to a durable commit."""
    connection = _connect(path)
    connection.execute(TABLE)
    connection.execute("CREATE INDEX ix_prompt ON traces (prompt_sha256)")
    connection.execute("CREATE INDEX ix_source ON traces (source)")
    rows = [_row(number, line) for number, line in enumerate(lines)]

    def insert() -> None:
        for start in range(0, len(rows), ROWS_PER_COMMIT):
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(INSERT, rows[start : start + ROWS_PER_COMMIT])

    return seconds(insert)


def commit_seconds(path: Path) -> float:
    """The median durable commit of one small row."""
    connection = _connect(path)
    connection.execute("CREATE TABLE notes (text TEXT)")
    return median_seconds(lambda: connection.execute("INSERT INTO notes VALUES ('ding')"), COMMITS)


def _connect(path: Path) -> sqlite3.Connection:
    """A connection with the platform's promises: write-ahead log, synced at each commit; commits by itself."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _row(number: int, line: bytes) -> Row:
    digest = sha256(line).hexdigest()
    return (number.to_bytes(16, "big"), digest, digest[::-1], "sums", line.decode(), "2026-01-01 00:00:00.000000")
