"""A fresh place for each test on servers that stand for the whole session."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

from minio import Minio
from redis import Redis
from sqlalchemy import NullPool, create_engine, make_url, text
from tests.servers.ready import s3_address

from tunix_rt_common.db.session import open_database


@contextmanager
def fresh_database(server_url: str, template: str = "template1") -> Iterator[str]:
    """A database on a Postgres server, copied from another of its databases; dropped afterwards, whoever is in it."""
    name = f"tunix_rt_{uuid4().hex}"
    _execute(server_url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@contextmanager
def migrated_template(server_url: str) -> Iterator[str]:
    """The name of a migrated, empty database that nobody is connected to: copying it is faster than migrating."""
    with fresh_database(server_url) as url:
        database = open_database(url)
        database.migrate()
        database.close()
        yield str(make_url(url).database)


def flush(redis_url: str) -> None:
    """Empty the Redis database behind a URL."""
    with Redis.from_url(redis_url) as client:
        client.flushdb()


def fresh_prefix(s3_url: str) -> str:
    """A prefix that nobody has used, below the one of the URL."""
    parts = urlsplit(s3_url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{uuid4().hex}").geturl()


def make_bucket(s3_url: str) -> None:
    """Make the URL's bucket if it is not there, with the credentials of the environment."""
    client, bucket = open_s3(s3_url), urlsplit(s3_url).netloc
    if not client.bucket_exists(bucket):
        client.make_bucket(bucket)


def open_s3(s3_url: str) -> Minio:
    """An S3 client with the credentials of the environment, for tests to look behind the store."""
    return Minio(
        s3_address(s3_url),
        access_key=os.environ["AWS_ACCESS_KEY_ID"],
        secret_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1",
        secure="endpoint=https" in s3_url,
    )


def _execute(server_url: str, statement: str) -> None:
    engine = create_engine(server_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.execute(text(statement))
