"""The fault proxy does to a connection what it says, and nothing else: with an echo server, Postgres, Redis and S3."""

import socket
import threading
import time
from contextlib import closing, nullcontext, suppress
from io import BytesIO
from socketserver import StreamRequestHandler, ThreadingTCPServer
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
import urllib3
from minio.error import S3Error
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import make_url
from tests.faults.proxy import COMMIT, COMPLETE_UPLOAD, LPUSH, FaultProxy
from tests.servers.fresh import open_s3
from tests.servers.ready import s3_address, wait_until

PATIENCE_S = 10
SILENCE_S = 0.3
PART_BYTES = 5 * 1024 * 1024


class Echo(StreamRequestHandler):
    """Says each line again, and remembers it."""

    def handle(self):
        with suppress(ConnectionError):
            for line in self.rfile:
                self.server.lines.append(line)
                self.wfile.write(line)


@pytest.fixture
def echo():
    class Server(ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Echo) as server:
        server.lines = []
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo):
    with FaultProxy(*echo.server_address) as proxy:
        yield proxy


@pytest.fixture
def client(proxy):
    with connect(proxy) as client:
        assert ask(client, b"hello\n") == b"hello\n"
        yield client


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_S)


def ask(client, line):
    client.sendall(line)
    return read(client, len(line))


def read(client, size):
    """So many bytes, or less before the end."""
    got = b""
    while len(got) < size and (piece := client.recv(size - len(got))):
        got += piece
    return got


def hears_nothing(client):
    client.settimeout(SILENCE_S)
    try:
        with pytest.raises(TimeoutError):
            client.recv(1)
    finally:
        client.settimeout(PATIENCE_S)
    return True


def test_everything_passes_in_both_directions_and_is_counted(proxy, client):
    line = b"x" * 1_000_000 + b"\n"
    threading.Thread(target=client.sendall, args=(line,)).start()
    assert read(client, len(line)) == line
    sent = len(b"hello\n" + line)
    assert (proxy.counts["accepted"], proxy.counts["request_bytes"], proxy.counts["reply_bytes"]) == (1, sent, sent)


def test_end_of_what_one_side_says_is_passed_on_and_the_other_may_still_speak(proxy, client):
    client.sendall(b"last\n")
    client.shutdown(socket.SHUT_WR)
    assert read(client, 100) == b"last\n"


def test_reply_comes_later_by_the_latency(proxy, client):
    proxy.latency(0.3)
    started = time.monotonic()
    assert ask(client, b"slow\n") == b"slow\n"
    assert time.monotonic() - started >= 0.3


def test_black_hole_holds_back_what_arrives_once_it_is_healed(proxy, client, echo):
    proxy.black_hole()
    client.sendall(b"held\n")
    assert hears_nothing(client)
    assert echo.lines == [b"hello\n"]
    proxy.heal()
    assert read(client, 5) == b"held\n"


def test_who_comes_during_a_black_hole_waits_and_is_served_once_it_is_healed(proxy):
    proxy.black_hole()
    with connect(proxy) as late:
        late.sendall(b"late\n")
        assert hears_nothing(late)
        proxy.heal()
        assert read(late, 5) == b"late\n"


def test_reset_breaks_open_connections_and_lets_new_ones_in(proxy, client):
    proxy.reset_all()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as other:
        assert ask(other, b"again\n") == b"again\n"
    assert proxy.counts["reset"] == 1


def test_refused_are_new_connections_only_until_it_is_healed(proxy, client):
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert ask(client, b"old\n") == b"old\n"
    proxy.heal()
    with connect(proxy) as other:
        assert ask(other, b"new\n") == b"new\n"


def test_client_of_a_server_that_is_not_there_is_reset(echo):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        address = nobody.getsockname()
    with FaultProxy(*address) as proxy, pytest.raises(ConnectionResetError), connect(proxy) as client:
        client.recv(1)
    assert proxy.counts["unreachable"] == 1


def test_limit_passes_exactly_so_many_bytes_and_then_ends_each_connection(proxy, client):
    proxy.limit(7)
    assert ask(client, b"four\n") == b"four\n"
    client.sendall(b"truncated\n")
    assert read(client, 100) == b"tr"
    with connect(proxy) as other:
        other.sendall(b"truncated\n")
        assert read(other, 100) == b"truncat"
    assert proxy.counts["limited"] == 2


def test_bandwidth_bounds_how_fast_bytes_pass(proxy, client):
    proxy.bandwidth(100_000)
    line = b"x" * 30_000 + b"\n"
    started = time.monotonic()
    assert ask(client, line) == line
    assert time.monotonic() - started >= 0.25


def test_sliced_bytes_arrive_whole_and_in_order(proxy, client):
    line = bytes(range(32, 127)) + b"\n"
    proxy.slicer(1)
    client.sendall(line)
    first = client.recv(len(line))
    assert len(first) < len(line)
    assert first + read(client, len(line) - len(first)) == line


def test_match_reaches_the_server_and_its_reply_does_not_reach_the_client(proxy, client, echo):
    proxy.cut_after(b"COMMIT")
    client.sendall(b"COMMIT\n")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.lines == [b"hello\n", b"COMMIT\n"]
    assert proxy.counts["cut"] == 1


def test_match_is_found_though_it_comes_in_two_reads_and_not_in_what_was_matched_before(proxy, client, echo):
    proxy.cut_after(b"COMMIT", times=2)
    client.sendall(b"COM")
    wait_until(lambda: proxy.counts["request_bytes"] == len(b"hello\nCOM"), "the first half to pass")
    client.sendall(b"MIT\n")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with connect(proxy) as other:
        assert ask(other, b"MIT\n") == b"MIT\n"


def test_so_many_matches_are_cut_and_the_next_one_passes(proxy):
    proxy.cut_after(b"COMMIT", times=2)
    for _ in range(2):
        with connect(proxy) as client, pytest.raises(ConnectionResetError):
            ask(client, b"COMMIT\n")
    with connect(proxy) as client:
        assert ask(client, b"COMMIT\n") == b"COMMIT\n"


def test_healing_takes_back_cuts_limits_and_latency(proxy, client):
    proxy.latency(60)
    proxy.limit(1)
    proxy.cut_after(b"COMMIT")
    proxy.heal()
    assert ask(client, b"COMMIT\n") == b"COMMIT\n"


def test_connections_that_hang_do_not_hinder_the_end_of_the_proxy(echo):
    with FaultProxy(*echo.server_address) as proxy:
        client = connect(proxy)
        proxy.black_hole()
        client.sendall(b"never\n")
    with closing(client), pytest.raises(ConnectionResetError):
        client.recv(1)


@pytest.mark.parametrize("pipelined", [False, True])
def test_postgres_has_committed_what_its_client_does_not_know(postgres_url, pipelined):
    url = make_url(postgres_url)
    arguments = {"user": url.username, "password": url.password, "dbname": url.database, "host": "127.0.0.1"}
    with FaultProxy(url.host, url.port) as proxy:
        through = psycopg.connect(port=proxy.port, **arguments)
        through.execute("CREATE TABLE words (word text)")
        through.execute("INSERT INTO words VALUES (%s)", ["COMMIT"])
        proxy.cut_after(COMMIT)
        with pytest.raises(psycopg.OperationalError), through.pipeline() if pipelined else nullcontext():
            through.commit()
        through.close()
    assert proxy.counts["cut"] == 1
    with psycopg.connect(port=url.port, **arguments) as direct:
        assert direct.execute("SELECT word FROM words").fetchall() == [("COMMIT",)]


def test_redis_has_pushed_what_its_client_does_not_know(redis_url):
    server = urlsplit(redis_url)
    never = Retry(NoBackoff(), 0)
    with FaultProxy(server.hostname, server.port) as proxy, redis.Redis(port=proxy.port, retry=never) as through:
        through.ping()
        proxy.cut_after(LPUSH)
        pipeline = through.pipeline(transaction=False).set("before", "1").lpush("list", "LPUSH")
        with pytest.raises(redis.ConnectionError):
            pipeline.execute()
        assert through.lpush("list", "known") == 2
    assert proxy.counts["cut"] == 1


def test_s3_has_completed_the_upload_that_its_client_does_not_know(s3_url):
    server, (bucket, _, prefix) = s3_address(s3_url), s3_url.removeprefix("s3://").partition("?")[0].partition("/")
    host, port = server.rsplit(":", 1)
    key, content = f"{prefix}/large", bytes(PART_BYTES + 1)
    with FaultProxy(host, int(port)) as proxy:
        through = open_s3(s3_url.replace(server, f"127.0.0.1:{proxy.port}"))
        proxy.cut_after(COMPLETE_UPLOAD)
        with pytest.raises((urllib3.exceptions.HTTPError, S3Error)):
            through.put_object(bucket, key, BytesIO(content), -1, part_size=PART_BYTES)
    assert proxy.counts["cut"] == 1
    assert open_s3(s3_url).stat_object(bucket, key).size == len(content)
