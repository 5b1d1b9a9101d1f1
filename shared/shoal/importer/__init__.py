"""Bringing embeddings that people already have into the store: one ``.npy``, or a clip-retrieval folder.

Two passes over the memory-mapped files: the first checks every value and takes the content's hash, of which the id is
made; the second copies the rows into committed shards. Nothing is ever loaded whole.
"""

from shoal.importer.importing import import_embeddings

__all__ = ["import_embeddings"]
