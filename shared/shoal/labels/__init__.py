"""Label files: one reader for extraction, import, `shoal run` and class maps, so that a file means the same everywhere.

`formats` detects from a file's head how it is written, `columns` chooses the columns of paths and labels and cleans
their values, `reading` reads the file, and `joining` assigns a label to each image.
"""

from shoal.labels.columns import PATH_COLUMN, Columns, clean_label, is_label_name, is_path_name, quoted_list, text_of
from shoal.labels.formats import Layout, may_be_text
from shoal.labels.joining import Joined, join, join_by_path
from shoal.labels.reading import LabelTable, check_labels, read_csv_columns, read_labels, typed_values

__all__ = [
    "PATH_COLUMN",
    "Columns",
    "Joined",
    "LabelTable",
    "Layout",
    "check_labels",
    "clean_label",
    "is_label_name",
    "is_path_name",
    "join",
    "join_by_path",
    "may_be_text",
    "quoted_list",
    "read_csv_columns",
    "read_labels",
    "text_of",
    "typed_values",
]
