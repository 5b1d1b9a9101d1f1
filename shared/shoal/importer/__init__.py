"""Import of existing embeddings into the store: one ``.npy`` file, or a folder in clip-retrieval's layout.

Two passes over the memory-mapped files: the first checks every value and computes the hash that the id contains; the
second copies the rows into committed shards. No file is loaded whole.
"""

from shoal.importer.importing import import_embeddings

__all__ = ["import_embeddings"]
