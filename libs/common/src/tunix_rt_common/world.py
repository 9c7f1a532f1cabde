"""What a worker stands on: the open ports of its process."""

from dataclasses import dataclass

from tunix_rt_common.db.session import Database
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import ArtifactStore


@dataclass(frozen=True)
class World:
    """The three ports and the settings: all that a worker needs."""

    settings: Settings
    database: Database
    store: ArtifactStore
