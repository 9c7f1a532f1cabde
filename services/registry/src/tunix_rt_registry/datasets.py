"""Building an immutable dataset version: select, split by prompt, shard, hash, store."""

import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

from tunix_rt_common.db.models import DatasetRecord, utc_now
from tunix_rt_common.errors import UnusableData
from tunix_rt_common.shards import BuiltShards, build_shards
from tunix_rt_common.specs import DatasetSpec
from tunix_rt_common.splits import assign_splits
from tunix_rt_common.version import CODE_VERSION
from tunix_rt_common.world import World
from tunix_rt_registry.selection import prompt_groups, read_rows, select_traces


def build(world: World, dataset_id: UUID) -> dict[str, Any]:
    """Build what the dataset's row pins and store it; `manifest_sha256`, `dataset_sha256` and counts.

    Raises:
        UnusableData: no trace passes the filters.
    """
    with world.database.reading() as session:
        dataset = session.get_one(DatasetRecord, dataset_id)
        spec, version = DatasetSpec.model_validate(dataset.spec), dataset.version
        newest = dataset.newest_trace_id
    world.settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=world.settings.scratch_dir, prefix="dataset-") as folder:
        built = _build_shards(world, spec, newest, Path(folder))
        for shard in built.shards:
            world.store.put_file(Path(folder) / shard.path)
    manifest = built.manifest(spec, version=version, code_version=CODE_VERSION, created_at=utc_now())
    return {
        "manifest_sha256": world.store.put_document(manifest),
        "dataset_sha256": manifest.dataset_sha256,
        "rows": manifest.statistics.rows,
    }


def _build_shards(world: World, spec: DatasetSpec, newest: UUID | None, folder: Path) -> BuiltShards:
    with world.database.reading() as session:
        trace_ids = select_traces(session, spec, newest)
        if not trace_ids:
            raise UnusableData("no trace passes the filters: loosen them, or import traces that do", field="filters")
        splits = assign_splits(
            prompt_groups(session, trace_ids),
            seed=spec.seed,
            validation_fraction=spec.validation_fraction,
            test_fraction=spec.test_fraction,
        )
        return build_shards(read_rows(session, trace_ids), splits, folder, spec.rows_per_shard)
