"""The store: embeddings and clusterings on disk. FORMAT.md is the format's specification."""

from shoal.store.reader import EmbeddingSet
from shoal.store.records import (
    FileRecord,
    Manifest,
    ModelRecord,
    Plan,
    RowMetadata,
    ShardCommit,
    Source,
    image_id,
    listing_sha256,
)
from shoal.store.store import Store
from shoal.store.verify import Problem, VerifyReport
from shoal.store.writer import ShardWriter

__all__ = [
    "EmbeddingSet",
    "FileRecord",
    "Manifest",
    "ModelRecord",
    "Plan",
    "Problem",
    "RowMetadata",
    "ShardCommit",
    "ShardWriter",
    "Source",
    "Store",
    "VerifyReport",
    "image_id",
    "listing_sha256",
]
