"""``.h5``, ``.hdf5``: datasets, by path. Needs ``h5py`` (the extra ``hdf5``)."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from shoal.importer.formats.base import Array, Content, Values, as_objects, unreadable
from shoal.userfiles import UserFile

if TYPE_CHECKING:
    import h5py

_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError)


def read_hdf5(file: UserFile) -> Content:
    """The datasets of an HDF5 file. Links into other files are not followed.

    Raises
    ------
    ImportInvalid
        ``h5py`` is not installed, or the file is damaged.
    """
    library = _h5py(file)
    arrays: dict[str, Array] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, library.Dataset):
            arrays[name] = _dataset(file, library, name, item)

    with file.open(None) as opened:
        try:
            with library.File(opened, "r") as content:
                content.visititems(visit)
        except _ERRORS as error:
            raise _damaged(file, error) from error
    return Content(file, "dataset", arrays)


def _h5py(file: UserFile) -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise file.invalid("is an HDF5 file, which needs h5py: install it with `pip install 'shoal[hdf5]'`.") from error
    module: ModuleType = h5py
    return module


def _dataset(file: UserFile, library: ModuleType, name: str, item: h5py.Dataset) -> Array:
    text = library.check_string_dtype(item.dtype) is not None
    dtype = np.dtype(object) if text else np.dtype(item.dtype)
    stored = "text" if text else ""
    shape = tuple(int(size) for size in item.shape or ())
    if item.is_virtual or item.external:
        problem = "keeps its values in other files, which are not read. Copy the values into this file"
    elif dtype.hasobject and not text:
        problem = f"holds {item.dtype} of variable length"
    else:
        return Array(name, shape, dtype, _Reader(file, library, name), stored)
    return Array(name, shape, dtype, unreadable, stored, problem)


class _Reader:
    """Reads rows of a dataset; opens the file for each block, so that none stays open."""

    def __init__(self, file: UserFile, library: ModuleType, name: str) -> None:
        self._file, self._library, self._name = file, library, name

    def __call__(self, start: int, stop: int) -> Values:
        with self._file.open(None) as opened:
            try:
                with self._library.File(opened, "r") as content:
                    item = content[self._name]
                    if self._library.check_string_dtype(item.dtype) is None:
                        values: Values = item[start:stop]
                        return values
                    return as_objects(list(item.asstr()[start:stop]))
            except _ERRORS as error:
                raise _damaged(self._file, error, f", dataset `{self._name}`, row {start} or after,") from error


def _damaged(file: UserFile, error: Exception, place: str = "") -> Exception:
    return file.invalid(f"{place} is not a complete HDF5 file: {error}. Write it again.".lstrip())
