"""The servers' programs: found where they are installed, else installed. `python -m tests.servers.binaries`

Postgres and Redis are Debian packages. The S3 servers are built from source at the versions pinned here, since neither
is packaged: into `.tools/bin`, once. Go itself comes from Debian where it is missing, and a newer one from the module
proxy where Debian's is too old.
"""

import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

TOOLS = Path(__file__).parents[2] / ".tools" / "bin"
GO_VERSION = "1.26.8"
DEBIAN_PACKAGES = {"initdb": "postgresql", "redis-server": "redis-server", "go": "golang-go", "promtool": "prometheus"}
SELF_UPDATING_GO = (1, 21)
"""From this version on, Go fetches a newer Go by itself when the source asks for one."""


class NotInstalled(Exception):
    """A server's program is missing; the message says how to get it."""


@dataclass(frozen=True)
class GoProgram:
    """A program that `go install` builds, in a folder named after its version: a new pin is a new build."""

    package: str
    version: str

    @property
    def name(self) -> str:
        return self.package.rpartition("/")[2]

    @property
    def path(self) -> Path:
        return TOOLS / f"{self.name}@{self.version}" / self.name

    def find(self) -> Path:
        """The built program; `NotInstalled` where nobody has built it."""
        if not self.path.exists():
            raise NotInstalled(f"{self.name} {self.version} is not built: run `make servers`")
        return self.path


MINIO = GoProgram("github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c")
VERSITYGW = GoProgram("github.com/versity/versitygw/cmd/versitygw", "v1.8.0")


def find_postgres() -> Path:
    """The folder of Postgres' programs; Debian keeps it out of the PATH. `NotInstalled` where there is none."""
    return _find("initdb").resolve().parent


def find_redis() -> Path:
    """The Redis server; `NotInstalled` where there is none."""
    return _find("redis-server")


def find_promtool() -> Path:
    """What checks Prometheus' rules; `NotInstalled` where it was not fetched."""
    return _find("promtool")


def install() -> None:
    """Make every program available; returns at once when all are."""
    _install_packages([program for program in ("initdb", "redis-server") if not _search(program)])
    if not _search("promtool"):
        _unpack("prometheus", "usr/bin/promtool")
    for program in (MINIO, VERSITYGW):
        if not program.path.exists():
            _build(program)
    for path in (find_postgres(), find_redis(), MINIO.path, VERSITYGW.path):
        logger.info("found %s", path)


def _find(program: str) -> Path:
    if found := _search(program):
        return Path(found)
    raise NotInstalled(
        f"{program} is not installed: run `make servers`, or install {DEBIAN_PACKAGES[program]} yourself"
    )


def _search(program: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    folders = [os.environ["PATH"], *map(str, versions), "/usr/local/go/bin", str(TOOLS)]
    return shutil.which(program, path=os.pathsep.join(folders))


def _install_packages(programs: list[str]) -> None:
    if not programs:
        return
    packages = [DEBIAN_PACKAGES[program] for program in programs]
    if not shutil.which("apt-get"):
        raise NotInstalled(f"{' and '.join(programs)} missing: install what your system calls {' '.join(packages)}")
    logger.info("installing %s", " ".join(packages))
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *packages)


def _apt(*arguments: str) -> None:
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*as_root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet", *arguments], check=True)


def _unpack(package: str, program: str) -> None:
    """Take one program out of a Debian package, which would start a server of its own if it were installed."""
    logger.info("fetching %s", program)
    TOOLS.mkdir(parents=True, exist_ok=True)
    _apt("update")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["apt-get", "download", "--quiet", package], cwd=folder, check=True)
        [archive] = Path(folder).glob("*.deb")
        subprocess.run(["dpkg", "--extract", archive, folder], check=True)
        shutil.copy(Path(folder) / program, TOOLS)


def _build(program: GoProgram) -> None:
    logger.info("building %s %s from source: a few minutes", program.name, program.version)
    started = time.monotonic()
    environment = {"CGO_ENABLED": "0", "GOBIN": str(program.path.parent), "GOTOOLCHAIN": "auto"}
    subprocess.run(
        [go_program(), "install", f"{program.package}@{program.version}"],
        env=os.environ | environment,
        check=True,
        cwd=TOOLS,
    )
    logger.info("built %s in %.0f s", program.name, time.monotonic() - started)


def go_program() -> str:
    """A Go that can build what asks for a newer one."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    if not _search("go"):
        _install_packages(["go"])
    go = str(_find("go"))
    words = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    major, minor = map(int, re.findall(r"go(\d+)\.(\d+)", words)[0])
    return go if (major, minor) >= SELF_UPDATING_GO else _newer_go(go)


def _newer_go(go: str) -> str:
    """The Go toolchain is itself a module; one that an old Go has unpacked lacks its executable bits."""
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    module = f"golang.org/toolchain@v0.0.1-go{GO_VERSION}.linux-{machine}"
    logger.info("fetching Go %s", GO_VERSION)
    fetched = subprocess.run([go, "mod", "download", "-json", module], stdout=subprocess.PIPE, check=True, cwd=TOOLS)
    folder = Path(json.loads(fetched.stdout)["Dir"])
    for program in (folder / "bin" / "go", *folder.glob("pkg/tool/*/*")):
        program.chmod(0o755)
    return str(folder / "bin" / "go")


if __name__ == "__main__":
    from tests.servers.otlp import build_receiver

    logging.basicConfig(format="servers: %(message)s", level=logging.INFO, stream=sys.stdout)
    try:
        install()
        build_receiver()
    except NotInstalled as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(error.cmd)}` failed: see what it says above")
