"""What a worker stands on: the open ports of its process."""

from dataclasses import dataclass
from typing import Self

from tunix_rt_common.db.session import Database, open_database
from tunix_rt_common.settings import Settings
from tunix_rt_common.storage import ArtifactStore, open_store
from tunix_rt_common.uploads import DatabaseUploads


@dataclass(frozen=True)
class World:
    """The ports and the settings: all that a worker needs."""

    settings: Settings
    database: Database
    store: ArtifactStore

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Open database and store as the settings name them; neither is asked anything yet."""
        database = open_database(settings.resolved_database_url)
        return cls(settings, database, open_store(settings.resolved_artifacts_url, DatabaseUploads(database)))
