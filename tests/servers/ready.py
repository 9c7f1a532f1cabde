"""When a server answers: asked the way a client would, whatever runs it."""

import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from urllib.parse import parse_qs, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import TimeoutError as RedisSilent
from redis.retry import Retry
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

PATIENCE_S = 2
POLL_S = 0.02


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Poll until a condition holds; `TimeoutError` says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(POLL_S)


def answers(url: str) -> bool:
    """Whether work can begin at a database, Redis or `s3://` URL."""
    return ASKED[urlsplit(url).scheme](url)


def s3_address(url: str) -> str:
    """Host and port of an `s3://` URL's endpoint."""
    return urlsplit(parse_qs(urlsplit(url).query)["endpoint"][0]).netloc


def _postgres_answers(url: str) -> bool:
    engine = create_engine(url, poolclass=NullPool, connect_args={"connect_timeout": PATIENCE_S})
    try:
        engine.connect().close()
    except OperationalError:
        return False
    return True


def _redis_answers(url: str) -> bool:
    with Redis.from_url(
        url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S, retry=Retry(NoBackoff(), 0)
    ) as client:
        try:
            return bool(client.ping())
        except (RedisAway, RedisSilent):
            return False


def _s3_answers(url: str) -> bool:
    """A server that is up refuses a request without a signature; one that still starts has other troubles."""
    connection = HTTPConnection(s3_address(url), timeout=PATIENCE_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 403
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


ASKED: dict[str, Callable[[str], bool]] = {
    "postgresql+psycopg": _postgres_answers,
    "redis": _redis_answers,
    "s3": _s3_answers,
}
