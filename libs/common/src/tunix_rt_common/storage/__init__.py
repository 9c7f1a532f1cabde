"""The artifact store: content-addressed blobs, and documents that list them."""

from tunix_rt_common.storage.base import (
    ArtifactStore,
    Blob,
    Capabilities,
    StoredBlob,
    UploadLedger,
    open_store,
)

__all__ = ["ArtifactStore", "Blob", "Capabilities", "StoredBlob", "UploadLedger", "open_store"]
