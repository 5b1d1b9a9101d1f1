"""A few images sent within a request, embedded by a worker while the client waits.

Images and vectors pass through a folder below the store's root, to keep megabytes out of the queue's memory:
``inline/<token>/00000.image …``, and ``vectors.npy`` when the job is done. The API deletes the folder when it answers;
abandoned folders are deleted after an hour.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, StringConstraints
from shoal.errors import StoreError
from shoal.schemas import Request
from shoal.store.files import publish_file, storage_errors

MAX_IMAGES = 64
MAX_BYTES = 32 * 2**20
ABANDONED_S = 3600.0


class InlineRequest(Request):
    """Request of a job of kind ``embed:<backend>``, which the API makes."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    inline: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
    count: int = Field(ge=1, le=MAX_IMAGES)


class InlineResult(BaseModel):
    """Result of such a job; the vectors are in the folder."""

    inline: str
    rows: int
    dim: int


@dataclass(frozen=True)
class InlineFolder:
    """One request's folder below the store's root."""

    root: Path
    token: str

    @classmethod
    def create(cls, root: Path, images: Sequence[bytes]) -> InlineFolder:
        """Write ``images`` to a new folder.

        Raises
        ------
        StoreFull, StoreError
            They cannot be written; the folder is removed.
        """
        folder = cls(root, secrets.token_hex(16))
        try:
            with storage_errors(folder.path):
                folder.path.mkdir(parents=True)
                for index, data in enumerate(images):
                    (folder.path / image_name(index)).write_bytes(data)
        except BaseException:
            folder.remove()
            raise
        return folder

    @property
    def path(self) -> Path:
        """The folder."""
        return self.root / "inline" / self.token

    def write(self, vectors: NDArray[np.float32]) -> None:
        """Store the vectors, (n, dim) float32, for the API."""
        publish_file(self.path / "vectors.npy", lambda file: np.save(file, vectors))

    def read(self) -> NDArray[np.float32]:
        """The vectors that `write` stored.

        Raises
        ------
        StoreError
            The file no longer exists or is damaged.
        """
        try:
            vectors: NDArray[np.float32] = np.load(self.path / "vectors.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StoreError(f"The embeddings of this request cannot be read ({error}): send it again.") from error
        return vectors

    def remove(self) -> None:
        """Delete the folder, and abandoned ones of other requests."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            for folder in self.path.parent.iterdir():
                with suppress(OSError):
                    if time.time() - folder.stat().st_mtime > ABANDONED_S:
                        shutil.rmtree(folder, ignore_errors=True)


def image_name(index: int) -> str:
    """File name of a request's image."""
    return f"{index:05d}.image"
