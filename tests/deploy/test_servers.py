"""What our scripts make of the servers: run against real ones."""

import os
import re
import subprocess
import sys

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry
from sqlalchemy import NullPool, create_engine, text
from tests.contract.queue_recorder import Recorder
from tests.deploy.compose import DEPLOY, REPOSITORY
from tests.servers import processes
from tests.servers.ready import wait_until

from tunix_rt_common.db.session import open_database
from tunix_rt_common.ids import new_id
from tunix_rt_common.messages import TrainJob
from tunix_rt_common.queue import open_queue

SECRET = "a long random text"
PASSWORDS = {"REDIS_PASSWORD": "queue-password", "REDIS_MONITOR_PASSWORD": "monitor-password"}
PLACES = ("/etc/tunix-rt", "/run/redis", "/data")


class ComposedRedis(processes.Redis):
    """Redis as compose starts it, with the container's folders moved into one of its own."""

    def prepare(self):
        super().prepare()
        for name in ("redis.conf", "start.sh"):
            content = (DEPLOY / "compose" / "redis" / name).read_text()
            moved = re.sub("|".join(PLACES), lambda place: f"{self.folder}{place[0]}", content)
            self.place(f"etc/tunix-rt/{name}").write_text(moved)
        self.place("run/redis/users.acl")

    def place(self, path):
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def command(self):
        script = str(self.folder / "etc/tunix-rt/start.sh")
        return ["sh", script, "--port", str(self.port), "--bind", processes.LOOPBACK]

    def environment(self):
        return PASSWORDS

    @property
    def url(self):
        return f"redis://tunix-rt:{PASSWORDS['REDIS_PASSWORD']}@{self.address}/0"


@pytest.fixture(scope="module")
def redis():
    with ComposedRedis() as server:
        yield server


@pytest.fixture
def monitor(redis):
    client = Redis(port=redis.port, username="monitor", password=PASSWORDS["REDIS_MONITOR_PASSWORD"])
    with client:
        yield client


def test_redis_keeps_what_it_can_and_evicts_nothing(monitor):
    told = monitor.config_get("append*", "maxmemory*")
    assert told["appendonly"] == "yes"
    assert told["maxmemory-policy"] == "noeviction"
    assert int(told["maxmemory"]) > 0


def test_redis_knows_nobody_without_a_name(redis):
    with Redis(port=redis.port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG SET maxmemory 1", "KEYS *", "SHUTDOWN", "ACL LIST"])
def test_services_cannot_harm_redis(redis, command):
    with Redis.from_url(redis.url) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())


def test_services_reach_their_own_keys_alone(redis):
    with Redis.from_url(redis.url) as client, pytest.raises(NoPermissionError):
        client.set("another", 1)


def test_monitor_reads_no_message(monitor):
    with pytest.raises(NoPermissionError):
        monitor.lrange("tunix-rt:train", 0, -1)


def test_doorbells_pass_through_redis_with_the_rights_that_services_have(redis, tmp_path):
    recorder = Recorder(tmp_path / "heard")
    command = [sys.executable, "-m", "tests.contract.queue_server", redis.url, "train", str(recorder.file), "0"]
    server = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | {"QUEUE_SECRET": SECRET})
    try:
        message = TrainJob(job_id=new_id())
        open_queue(redis.url, SECRET).publish(message)
        wait_until(lambda: recorder.heard("done") == [str(message.job_id)], "the doorbell")
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def prepared_postgres():
    """A Postgres on which the script has run that the image runs when its volume is empty."""
    with processes.Postgres() as server:
        login = {"PGHOST": processes.LOOPBACK, "PGPORT": str(server.port), "PGPASSWORD": processes.POSTGRES_PASSWORD}
        given = {"POSTGRES_USER": processes.POSTGRES_USER, "DATABASE_PASSWORD": "it's random"}
        script = DEPLOY / "compose" / "postgres" / "10-tunix-rt.sh"
        subprocess.run([script], env=os.environ | login | given, check=True, capture_output=True)
        yield server


@pytest.fixture
def database_url(prepared_postgres):
    return f"postgresql+psycopg://tunix_rt:it%27s%20random@{prepared_postgres.address}/tunix_rt"


def test_services_own_their_database_and_rule_nothing_else(database_url):
    engine = create_engine(database_url, poolclass=NullPool)
    with engine.connect() as connection:
        role = connection.execute(
            text("SELECT rolsuper, rolcreatedb, rolcreaterole FROM pg_roles WHERE rolname = user")
        )
        assert tuple(role.one()) == (False, False, False)


def test_database_can_be_migrated_by_its_owner(database_url):
    database = open_database(database_url)
    database.migrate()
    database.close()
