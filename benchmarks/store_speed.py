"""The S3 store against the bare client: an artifact of 2 GiB up and down on a MinIO of its own, and its memory.

`PYTHONPATH=. python benchmarks/store_speed.py` from the repository's root, after `make servers`; about four minutes
and 7 GiB of disk. Replaces its own lines in results.json.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from measurement import Measurement, record, seconds, show
from minio import Minio
from tests.servers.fresh import fresh_prefix, open_s3
from tests.servers.processes import Minio as MinioServer
from tests.servers.provide import s3_credentials

from tunix_rt_common.storage import ArtifactStore, open_store

PIECE_BYTES = 64 << 20
BIG_PIECES, SMALL_PIECES = 32, 4
ROUNDS = 6
FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Trip:
    """A file's way up and down, by a process that did nothing else."""

    up_mb_s: float
    down_mb_s: float
    peak_mib: float


def measure_store() -> list[Measurement]:
    """Medians over rounds in which both take turns, each first in every other round."""
    with s3_credentials(), tempfile.TemporaryDirectory() as folder, MinioServer() as server:
        big, small = (_file(Path(folder), pieces) for pieces in (BIG_PIECES, SMALL_PIECES))
        trips: dict[str, list[Trip]] = {who: [] for who in TRAVELLERS}
        for number in range(ROUNDS):
            for who in sorted(TRAVELLERS, reverse=bool(number % 2)):
                trips[who].append(_trip(who, server.url, big))
        low = _trip("ours", server.url, small)
    ours, bare = _middle(trips["ours"]), _middle(trips["bare"])
    return [
        Measurement("S3, 2 GiB up", "MB/s", ours.up_mb_s, bare.up_mb_s, "bare minio client"),
        Measurement("S3, 2 GiB down", "MB/s", ours.down_mb_s, bare.down_mb_s, "bare minio client"),
        Measurement("S3, memory for 2 GiB", "MiB", ours.peak_mib, low.peak_mib, "for 256 MiB"),
    ]


def travel(who: str, url: str, file: Path) -> Trip:
    """Make one trip in this process; nothing that was written before waits for the disk when a clock starts."""
    up, down, forget = TRAVELLERS[who](url, file)
    took_s = []
    for leg in (up, down):
        os.sync()
        took_s.append(seconds(leg))
    forget()
    up_mb_s, down_mb_s = (file.stat().st_size / 1e6 / leg_s for leg_s in took_s)
    return Trip(up_mb_s, down_mb_s, _peak_mib())


Legs = tuple[Callable[[], object], Callable[[], object], Callable[[], object]]


def _with_our_store(url: str, file: Path) -> Legs:
    store: ArtifactStore = open_store(url)
    names: list[str] = []
    copy = file.with_suffix(".copy")
    return (
        lambda: names.append(store.put_file(file).sha256),
        lambda: store.fetch(names[0], copy),
        lambda: (store.delete(names[0], FOREVER), copy.unlink()),
    )


def _with_bare_client(url: str, file: Path) -> Legs:
    client: Minio = open_s3(url)
    bucket, copy = urlsplit(url).netloc, file.with_suffix(".copy")
    return (
        lambda: client.fput_object(bucket, "bare", str(file)),
        lambda: client.fget_object(bucket, "bare", str(copy)),
        lambda: (client.remove_object(bucket, "bare"), copy.unlink()),
    )


TRAVELLERS = {"ours": _with_our_store, "bare": _with_bare_client}


def _peak_mib() -> float:
    """The most memory since this program began; `ru_maxrss` would count what the parent had before."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _trip(who: str, url: str, file: Path) -> Trip:
    command = [sys.executable, __file__, who, fresh_prefix(url), str(file)]
    return Trip(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def _middle(trips: Sequence[Trip]) -> Trip:
    return Trip(*(median(getattr(trip, name) for trip in trips) for name in Trip.__dataclass_fields__))


def _file(folder: Path, pieces: int) -> Path:
    """A file that no layer below can compress or deduplicate away within a part."""
    path, piece = folder / f"{pieces}", os.urandom(PIECE_BYTES)
    with path.open("wb") as file:
        for _ in range(pieces):
            file.write(piece)
    return path


def main() -> None:
    """Measure, show, write."""
    measured = measure_store()
    record(measured)
    show(measured)


if __name__ == "__main__":
    if sys.argv[1:]:
        who, url, file = sys.argv[1:]
        print(json.dumps(asdict(travel(who, url, Path(file)))))
    else:
        main()
