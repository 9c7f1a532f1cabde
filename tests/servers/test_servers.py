"""The servers that other suites stand on: each starts, keeps its data, and can be killed, frozen and left behind."""

import shutil
import signal
import subprocess
import sys
from io import BytesIO

import pytest
from redis import Redis as RedisClient
from sqlalchemy import NullPool, create_engine, inspect, text
from tests.servers import processes, provide
from tests.servers.fresh import flush, fresh_database, open_s3
from tests.servers.ready import answers, wait_until


class PostgresRows:
    """What is kept in Postgres: committed rows."""

    def __init__(self, url):
        self.engine = create_engine(url, poolclass=NullPool)

    def keep(self, word):
        with self.engine.begin() as connection:
            connection.execute(text("CREATE TABLE words (word text)"))
            connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": word})

    def kept(self):
        with self.engine.connect() as connection:
            return connection.scalar(text("SELECT word FROM words"))


class RedisKeys:
    """What is kept in Redis: keys."""

    def __init__(self, url):
        self.url = url

    def keep(self, word):
        with RedisClient.from_url(self.url) as client:
            client.set("word", word)

    def kept(self):
        with RedisClient.from_url(self.url, decode_responses=True) as client:
            return client.get("word")


class S3Objects:
    """What is kept in S3: objects."""

    def __init__(self, url):
        self.client = open_s3(url)

    def keep(self, word):
        self.client.put_object("tests", "folder/word", BytesIO(word.encode()), len(word))

    def kept(self):
        return self.client.get_object("tests", "folder/word").read().decode()


KEPT_IN = {"postgres": PostgresRows, "redis": RedisKeys, "minio": S3Objects, "versitygw": S3Objects}


@pytest.fixture(scope="module", params=KEPT_IN)
def kind(request, s3_credentials):
    return request.param


@pytest.fixture(scope="module")
def server(kind):
    with provide.PROCESSES[kind]() as server:
        yield server


def test_server_answers_and_keeps_what_it_took_when_it_is_killed_and_started_again(kind, server):
    place = KEPT_IN[kind](server.url)
    place.keep("kept")
    url, killed = server.url, server.pid
    server.kill()
    assert not answers(url)
    server.restart()
    assert (server.url, place.kept()) == (url, "kept")
    assert server.pid != killed


def test_frozen_server_answers_again_once_it_is_thawed(server):
    server.freeze()
    assert not answers(server.url)
    server.thaw()
    wait_until(lambda: answers(server.url), "an answer of a thawed server")


def test_frozen_server_can_be_told_to_stop_and_to_start_again(server):
    server.freeze()
    server.restart()
    assert answers(server.url)


def test_killed_postgres_takes_those_who_serve_its_clients_along():
    with processes.Postgres() as server:
        engine = create_engine(server.url)
        with engine.connect() as connection:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
            server.kill()
            connection.invalidate()
        assert not processes.is_alive(backend)
        engine.dispose()


def test_server_and_its_data_are_gone_afterwards(kind):
    with provide.PROCESSES[kind]() as server:
        process, folder, url = server.pid, server.folder, server.url
    assert not processes.is_alive(process)
    assert not folder.exists()
    assert not answers(url)


def test_server_does_not_outlive_a_killed_test_run(kind):
    program = f"""
from tests.servers.processes import {provide.PROCESSES[kind].__name__} as Server
with Server() as server:
    print(server.folder, server.url, flush=True)
    input()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        folder, url = run.stdout.readline().decode().split()
        assert answers(url)
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not answers(url), "the server's end")
    shutil.rmtree(folder)


def test_server_that_cannot_start_says_why():
    class Misled(processes.Redis):
        """A Redis with an option that there is not."""

        def command(self):
            return [*super().command(), "--no-such-option", "1"]

    with pytest.raises(RuntimeError, match="no-such-option"), Misled():
        pass


def test_named_server_is_taken_before_any_is_started(monkeypatch):
    monkeypatch.setenv("TUNIX_RT_TEST_REDIS_URL", "redis://named:1/2")
    with provide.provide("redis") as server:
        assert server.url == "redis://named:1/2"


def test_fresh_databases_are_migrated_and_know_nothing_of_each_other(postgres_server, postgres_template, postgres_url):
    engine = create_engine(postgres_url, poolclass=NullPool)
    assert "jobs" in inspect(engine).get_table_names()
    PostgresRows(postgres_url).keep("here")
    with fresh_database(postgres_server.url, postgres_template) as other:
        assert "words" not in inspect(create_engine(other, poolclass=NullPool)).get_table_names()


def test_fresh_redis_is_empty(redis_server, redis_url):
    with RedisClient.from_url(redis_url) as client:
        client.set("left", "behind")
        flush(redis_url)
        assert client.keys() == []


def test_fresh_prefixes_lie_in_a_bucket_that_takes_objects(s3_url):
    bucket, _, prefix = s3_url.partition("?")[0].removeprefix("s3://").partition("/")
    client = open_s3(s3_url)
    client.put_object(bucket, f"{prefix}/here", BytesIO(b"x"), 1)
    assert [found.object_name for found in client.list_objects(bucket, f"{prefix}/")] == [f"{prefix}/here"]
