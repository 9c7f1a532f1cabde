"""A second Postgres that follows the first one asynchronously, and takes its place."""

import os
import shutil
import subprocess

from tests.servers.binaries import find_postgres
from tests.servers.processes import LOOPBACK, POSTGRES_PASSWORD, POSTGRES_USER, Postgres


class Standby(Postgres):
    """A copy of the Postgres at a port, kept up to date by streaming replication until it is promoted."""

    def __init__(self, primary_port: int) -> None:
        super().__init__()
        self._primary_port = primary_port

    def prepare(self) -> None:
        """Copy the primary's data, with what makes the copy a standby."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, self.system_user, self.system_user)
        primary = f"postgresql://{POSTGRES_USER}:{POSTGRES_PASSWORD}@{LOOPBACK}:{self._primary_port}/postgres"
        copy = ["pg_basebackup", "-d", primary, "-D", "data", "-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]
        self._run(copy)

    def take_over(self, port: int) -> None:
        """Become a primary, at the port where clients look for one."""
        self._run(["pg_ctl", "promote", "-D", "data"])
        self.stop()
        self.port = port
        self.start()

    def _run(self, command: list[str]) -> None:
        program, *arguments = command
        subprocess.run(
            self.guarded([f"{find_postgres()}/{program}", *arguments]),
            cwd=self.folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
