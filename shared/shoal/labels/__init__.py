"""Label files: one reader for all that take labels, so that the same file gives the same labels everywhere.

`layouts` tells from a file's head how it is written, `columns` which columns hold paths and labels, `reading` reads it,
`cells` cleans what stands in it, and `joining` says which label belongs to which image.
"""

from shoal.labels.cells import clean_label
from shoal.labels.columns import PATH_COLUMN, Columns, is_path_name, listed
from shoal.labels.joining import Joined, join, join_by_path
from shoal.labels.layouts import Layout, may_be_text
from shoal.labels.reading import LabelTable, check_labels, read_labels, typed_values

__all__ = [
    "PATH_COLUMN",
    "Columns",
    "Joined",
    "LabelTable",
    "Layout",
    "check_labels",
    "clean_label",
    "is_path_name",
    "join",
    "join_by_path",
    "listed",
    "may_be_text",
    "read_labels",
    "typed_values",
]
