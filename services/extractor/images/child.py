"""What runs inside a decode process: reads files, decodes them, writes the pixels into shared memory.

Started by `extractor.images.pool` as ``python -m extractor.images.child SOCKET MEMORY PARENT``; the first two are
inherited file descriptors. Imports no tensor library, so that a process starts in a fraction of a second and stays
small.
"""

from __future__ import annotations

import hashlib
import mmap
import resource
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from shoal.errors import ImageInvalid, ImageRemoved, ImageTooLarge, ImageUnreadable
from shoal.process import die_with_parent

from extractor.images.decode import decode_image, read_image_file
from extractor.images.formats import formats_of
from extractor.images.preprocess import network_input, thumbnail
from extractor.images.transform import Transform
from extractor.sources.filenames import as_text, candidates

BASE_BYTES = 2 * 2**30
"""What a decode process may have beside an image's pixels: libraries, and the largest file."""
MESSAGE_CHARACTERS = 1000
"""The most of what a decoding library says that is kept."""


class Listed(NamedTuple):
    """An image as the listing names it: the file must still have ``stamp`` when it is read, unless that is None."""

    path: str
    stamp: str | None


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """What every decode process of a pool works by.

    Attributes
    ----------
    root
        No image outside of it is read; symlinks resolved. ``/`` where links may lead anywhere.
    folder
        Where the images' relative paths start.
    max_pixels
        Larger images are refused.
    """

    root: Path
    folder: Path
    transform: Transform
    max_pixels: int
    thumbnails: bool

    @property
    def slot_bytes(self) -> int:
        """Bytes of one image's pixels in the shared memory."""
        return self.transform.size**2 * 3


@dataclass(frozen=True, slots=True)
class Task:
    """Decode ``path`` into the memory slot ``slot``; ``ticket`` comes back with the outcome."""

    ticket: int
    slot: int
    path: str
    stamp: str | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image, whose pixels lie in the slot. Sides are those of the upright image."""

    ticket: int
    width: int
    height: int
    file_bytes: int
    sha256: str
    thumbnail: bytes | None


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Why an image has no pixels."""

    ticket: int
    code: str
    message: str


def slots_of(memory: mmap.mmap, transform: Transform) -> NDArray[np.uint8]:
    """The shared memory as (slots, size, size, 3) uint8."""
    size = transform.size
    return np.frombuffer(memory, np.uint8).reshape(-1, size, size, 3)


def decode(task: Task, config: DecoderConfig, slot: NDArray[np.uint8]) -> Decoded | Undecodable:
    """Decode one image into ``slot``, (size, size, 3) uint8."""
    try:
        data = _read(task, config)
        image = decode_image(data, max_pixels=config.max_pixels, formats=formats_of(task.path))
        slot[:] = network_input(image, config.transform, max_pixels=config.max_pixels)
        small = thumbnail(image) if config.thumbnails else None
    except ImageInvalid as error:
        return _undecodable(task, error.code, error.detail)
    except MemoryError:
        return _undecodable(task, ImageTooLarge.code, "The image takes more memory than a decoder may have.")
    except Exception as error:  # Whatever a picture does to a library, it costs that picture alone.
        return _undecodable(
            task, ImageInvalid.code, f"The image cannot be resized: {error or type(error).__name__}. Save it anew."
        )
    return Decoded(
        ticket=task.ticket,
        width=image.width,
        height=image.height,
        file_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        thumbnail=small,
    )


def _read(task: Task, config: DecoderConfig) -> bytes:
    missing: ImageInvalid | None = None
    for path in candidates(task.path):
        try:
            if task.stamp is None:
                return read_image_file(config.root, config.folder / path)
            return read_image_file(config.root, config.folder / path, task.stamp)
        except ImageUnreadable as error:
            missing = missing or error
            if not isinstance(error, ImageRemoved):
                break
    raise missing or ImageUnreadable("The file has no name.")


def _undecodable(task: Task, code: str, message: str) -> Undecodable:
    # Libraries put what they read into what they say; it is stored as text.
    return Undecodable(task.ticket, code, as_text(message)[:MESSAGE_CHARACTERS])


def limit_memory(max_pixels: int) -> None:
    """Let this process have what the largest allowed image takes, and no more: what a bomb gets then is an error.

    Sixteen bytes a pixel are two copies as RGBA and one as RGB with room to spare; shared memory does not count.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = BASE_BYTES + 16 * max_pixels
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def serve(connection: Connection, memory: mmap.mmap) -> None:
    """Answer tasks until the other side hangs up."""
    config = connection.recv()
    limit_memory(config.max_pixels)
    slots = slots_of(memory, config.transform)
    connection.send("ready")
    while True:
        task = connection.recv()
        connection.send(decode(task, config, slots[task.slot]))


def main(arguments: list[str]) -> None:
    """Run a decode process on the two inherited descriptors."""
    socket, memory, parent = (int(argument) for argument in arguments)
    # A signal to the whole process group must not look like images that kill their decoder: the parent ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(parent)
    try:
        serve(Connection(socket), mmap.mmap(memory, 0))
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    # Under its importable name, so that the outcomes that it pickles are found by the other side.
    from extractor.images import child as decoder

    decoder.main(sys.argv[1:])
