"""The artifact store: content-addressed blobs, and documents that list them."""

from tunix_rt_common.storage.base import ArtifactStore, Blob, open_store

__all__ = ["ArtifactStore", "Blob", "open_store"]
