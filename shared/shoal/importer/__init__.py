"""Import of existing embeddings into the store: files of several formats, and folders of them.

`formats` has a module for each format, which names the arrays of a file and reads their rows in blocks; `keys` chooses
the arrays of a set; `parts` finds the files; `records`, `metadata` and `rows` read what is known of the rows.

Two passes: the first checks every value and computes the hash that the id contains; the second copies the rows into
committed shards. No file is loaded whole.
"""

from shoal.importer.importing import import_embeddings, import_sets
from shoal.importer.keys import Keys
from shoal.importer.parts import Limits

__all__ = ["Keys", "Limits", "import_embeddings", "import_sets"]
