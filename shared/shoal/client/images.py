"""Images as a caller has them: read, encoded, and split into requests."""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import threading
import zlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from shoal import inline
from shoal.errors import ImageEmpty, ImageTooLarge, ImageUnreadable, InvalidRequest, ShoalError, by_code

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

Image: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image | NDArray[np.uint8]"
"""A file's path, a file's bytes, a PIL image, or an array ``(h, w, 3) uint8`` or ``(h, w) uint8``."""

MAX_IMAGES = inline.MAX_IMAGES
MAX_BYTES = inline.MAX_IMAGE_BYTES
IN_FLIGHT = 4
"""Requests at once for a list that needs several."""

ACCEPTED = "a path, the bytes of a file, a PIL image, or a numpy array of uint8 with the shape (h, w, 3) or (h, w)"
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
# The services look at the content alone.
_URI = "data:image/unknown;base64,"


@dataclass(frozen=True, slots=True)
class Chunk:
    """The images of one request.

    Attributes
    ----------
    start
        Index of the first one in the caller's list.
    names
        What errors call them.
    """

    start: int
    images: list[bytes]
    names: list[str]

    def uris(self) -> list[str]:
        """The images as data URIs."""
        return [_URI + base64.b64encode(image).decode("ascii") for image in self.images]

    def body(self, **fields: object) -> bytes:
        """A JSON body of ``fields``."""
        return json.dumps(fields).encode()

    def placed(self, error: ShoalError) -> ShoalError:
        """``error`` in terms of the caller's list, where it is about one image of this request."""
        place = error.members.get("input")
        if not isinstance(place, int) or not 0 <= place < len(self.images):
            return error
        what = error.detail.removeprefix(f"Input {place}: ")
        members = {**error.members, "code": error.code, "input": self.start + place}
        return by_code({**members, "detail": f"{self.names[place]}: {what}"})


class Chunks:
    """Images split into requests; several workers may take from it at once.

    An image is read when its request is next, so that few are in memory at a time.

    Parameters
    ----------
    images
        One, or several.
    batch
        The most images of one request.

    Raises
    ------
    InvalidRequest
        There is no image, or ``batch`` is no number of images.
    """

    def __init__(self, images: Image | Iterable[Image], batch: int) -> None:
        if not 1 <= batch <= MAX_IMAGES:
            raise InvalidRequest(f"`batch` is {batch}: give 1 to {MAX_IMAGES} images per request.", field="batch")
        if not _is_one(images) and not isinstance(images, Iterable):
            raise InvalidRequest(
                f"`images` is of type {type(images).__name__}: give {ACCEPTED}, or several of them.", field="images"
            )
        self._images: list[Image] = [images] if _is_one(images) else list(images)  # type: ignore[arg-type, list-item]
        if not self._images:
            raise InvalidRequest(f"`images` is empty: give {ACCEPTED}, or several of them.", field="images")
        self._batch = batch
        self._lock = threading.Lock()
        self._chunks = self._split()

    @property
    def workers(self) -> int:
        """How many requests may be under way at once."""
        return min(IN_FLIGHT, -(-len(self._images) // self._batch))

    def take(self) -> Chunk | None:
        """The next request; None after the last one."""
        with self._lock:
            return next(self._chunks, None)

    def stop(self) -> None:
        """Let no further request be taken."""
        with self._lock:
            self._chunks.close()

    def _split(self) -> Generator[Chunk, None, None]:
        chunk, size = Chunk(0, [], []), 0
        for index, image in enumerate(self._images):
            name = name_of(image, index)
            data = encoded(image, name, index)
            if chunk.images and (len(chunk.images) == self._batch or size + len(data) > MAX_BYTES):
                yield chunk
                chunk, size = Chunk(index, [], []), 0
            chunk.images.append(data)
            chunk.names.append(name)
            size += len(data)
        yield chunk


def _is_one(images: object) -> bool:
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike):
        return True
    return _is_instance(images, "PIL.Image", "Image") or _is_instance(images, "numpy", "ndarray")


def _is_instance(value: object, module: str, name: str) -> bool:
    # Whoever has such an object has imported its library, which is not loaded for others.
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, name))


def name_of(image: Image, index: int) -> str:
    """What errors call an image: its place in the caller's list, and its path."""
    path = os.fspath(image) if isinstance(image, str | os.PathLike) else None
    return f"images[{index}]" if path is None else f"images[{index}] ({path})"


def encoded(image: Image, name: str, index: int) -> bytes:
    """The bytes to send: a file's own, PNG for pixels.

    Raises
    ------
    InvalidRequest
        It is none of what `Image` lists.
    ImageUnreadable, ImageEmpty, ImageTooLarge
        Its file cannot be read, is empty, or exceeds `MAX_BYTES`.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
    elif isinstance(image, str | os.PathLike):
        data = _read(Path(image), name, index)
    elif _is_instance(image, "PIL.Image", "Image"):
        data = _png_of_image(image, name, index)  # type: ignore[arg-type]
    elif _is_instance(image, "numpy", "ndarray"):
        data = _png_of_array(image, name, index)  # type: ignore[arg-type]
    else:
        raise InvalidRequest(f"{name} is of type {type(image).__name__}: give {ACCEPTED}.", input=index)
    if not data:
        raise ImageEmpty(f"{name} has zero bytes.", input=index)
    if len(data) > MAX_BYTES:
        raise ImageTooLarge(
            f"{name} has {len(data):,} bytes; a request takes {MAX_BYTES:,}: scale the image down.", input=index
        )
    return data


def _read(path: Path, name: str, index: int) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else str(error)
        raise ImageUnreadable(f"{name} cannot be read: {reason}.", input=index) from error


def _png_of_image(image: PIL.Image.Image, name: str, index: int) -> bytes:
    """With the EXIF orientation, so that an opened file means what its bytes mean."""
    if image.mode in {"F", "I"}:
        raise InvalidRequest(
            f"{name} has the mode {image.mode}, which defines no white: convert it to RGB, L or I;16.", input=index
        )
    file = BytesIO()
    exif = image.getexif()
    try:
        opaque = image if image.mode in _PNG_MODES else image.convert("RGB")
        opaque.save(file, format="PNG", compress_level=1, icc_profile=None, exif=exif)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageUnreadable(f"{name} cannot be encoded: {str(error).rstrip('.')}.", input=index) from error
    return file.getvalue()


def _png_of_array(array: NDArray[np.uint8], name: str, index: int) -> bytes:
    grey = array.ndim == 2
    if array.dtype != "uint8" or not (grey or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise InvalidRequest(
            f"{name} is an array of {array.dtype} with the shape {array.shape}: give uint8 with the shape (h, w, 3) or "
            "(h, w), or a list of such arrays.",
            input=index,
        )
    import numpy as np

    height, width = array.shape[:2]
    lines = np.zeros((height, 1 + array[0].size), np.uint8)  # The first byte of a line names its filter: none.
    lines[:, 1:] = array.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if grey else 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.data, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
