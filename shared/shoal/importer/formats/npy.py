"""``.npy``: one array, mapped into memory."""

from __future__ import annotations

from shoal.importer.formats.base import Array, Content, mapped
from shoal.store.npy import NpyInvalid, map_npy
from shoal.userfiles import UserFile

_ZIP = b"PK\x03\x04"


def read_npy(file: UserFile) -> Content:
    """The array of an ``.npy`` file.

    Raises
    ------
    ImportInvalid
        The file is truncated, pickled or no ``.npy`` file.
    """
    with file.open(None) as opened:
        if opened.read(4) == _ZIP:
            raise file.invalid("is an archive of arrays: name it .npz, and choose its array with --key.")
        opened.seek(0)
        try:
            values = map_npy(opened)
        except NpyInvalid as error:
            raise file.invalid(
                f"is not a complete .npy file of plain numbers: {error}. Save the embeddings with "
                "`np.save(path, embeddings.astype(np.float32))`."
            ) from error
    return Content(file, "array", {"": Array("", values.shape, values.dtype, mapped(values))})
