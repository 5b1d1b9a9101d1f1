"""A decode process: reads image files, or receives their bytes, decodes them, writes the pixels into shared memory.

`extractor.images.processes` starts it as ``python -m extractor.images.child SOCKET MEMORY KNOWN PARENT``: three
inherited file descriptors and a process id. It imports no tensor library, so it starts in a fraction of a second and
stays small.
"""

from __future__ import annotations

import hashlib
import mmap
import resource
import signal
import sys
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from shoal.errors import ImageInvalid, ImageTooLarge
from shoal.process import die_with_parent
from shoal.userfiles import as_text

from extractor.images.decode import SNIFFED_BYTES, Admit, sniff
from extractor.images.decode import decode_picture as decode_image
from extractor.images.known import KnownContents, read_known
from extractor.images.located import LocatedImage, LostImage, read_located
from extractor.images.preprocess import least_size, network_input, thumbnail
from extractor.images.properties import ImageProperties, properties_of
from extractor.images.transform import Transform

BASE_BYTES = 2 * 2**30
"""Memory of a decode process beside an image's pixels: libraries, and the largest file."""
LARGE_PIXELS = 4_000_000
"""Images of more pixels ask the pool before they are decoded: on many cores, a few of them would fill the memory."""
GO = "go"
"""The pool's answer."""
MESSAGE_CHARACTERS = 1000
"""Length at which a decoding library's message is cut."""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """The settings of all decode processes of a pool.

    Attributes
    ----------
    root
        Files outside it are refused; symlinks resolved. ``/`` where symlinks may lead anywhere.
    folder
        What the images' paths are relative to.
    max_pixels
        Larger images are refused.
    large_pixels
        Larger images ask the pool before they are decoded.
    """

    root: Path
    folder: Path
    transform: Transform
    max_pixels: int
    thumbnails: bool
    large_pixels: int = LARGE_PIXELS

    @property
    def slot_bytes(self) -> int:
        """Bytes of one image's pixels in the shared memory."""
        return self.transform.size**2 * 3


@dataclass(frozen=True, slots=True)
class Task:
    """Decode an image of a listing, or a file's bytes, into a slot; the outcome carries the same ``ticket``.

    ``anew``: also if its content has an embedding already.
    """

    ticket: int
    slot: int
    image: LocatedImage | bytes
    anew: bool = False


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image, whose pixels are in the slot. Width and height are those of the upright image.

    ``sha256`` is the file's; empty for an image of a request. ``properties`` is None for such an image, and where a
    stored row has none.
    """

    ticket: int
    width: int
    height: int
    file_bytes: int
    sha256: str
    thumbnail: bytes | None
    properties: ImageProperties | None = None


@dataclass(frozen=True, slots=True)
class Undecodable:
    """Why an image has no pixels."""

    ticket: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Stored:
    """An image of a listing that is not decoded: its content has an embedding already (`extractor.images.known`)."""

    ticket: int
    file_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Asks:
    """The process would decode an image of so many pixels, and waits for `GO`."""

    pixels: int


Outcome = Decoded | Undecodable | Stored


def slots_of(memory: mmap.mmap, transform: Transform) -> NDArray[np.uint8]:
    """The shared memory as (slots, size, size, 3) uint8."""
    size = transform.size
    return np.frombuffer(memory, np.uint8).reshape(-1, size, size, 3)


def decode(
    task: Task,
    config: DecoderConfig,
    slot: NDArray[np.uint8],
    known: KnownContents | None = None,
    admit: Admit = lambda pixels: None,
) -> Outcome:
    """Decode one image into ``slot``, (size, size, 3) uint8, unless ``known`` has its content.

    ``admit`` is called with the number of its pixels before they are decoded.
    """
    if isinstance(task.image, LostImage):
        return _undecodable(task, *task.image)
    try:
        data, formats = read_located(task.image, config.root, config.folder)
        sha256 = "" if isinstance(task.image, bytes) else hashlib.sha256(data).hexdigest()
        if known is not None and sha256 and not task.anew and _is_known(data, sha256, known):
            return Stored(task.ticket, len(data), sha256)
        least = least_size(config.transform, thumbnails=config.thumbnails)
        picture = decode_image(data, max_pixels=config.max_pixels, formats=formats, least=least, admit=admit)
        slot[:] = network_input(picture, config.transform, max_pixels=config.max_pixels)
        properties = properties_of(picture, slot) if sha256 else None
        # The last: it makes the picture itself smaller.
        small = thumbnail(picture.image()) if config.thumbnails else None
    except ImageInvalid as error:
        return _undecodable(task, error.code, error.detail)
    except MemoryError:
        return _undecodable(
            task, ImageTooLarge.code, "The image needs more memory than a decode process may use: scale it down."
        )
    except Exception as error:  # An image that makes a library fail costs no other image.
        return _undecodable(
            task, ImageInvalid.code, f"The image cannot be resized: {error or type(error).__name__}. Save it again."
        )
    return Decoded(
        ticket=task.ticket,
        width=picture.width,
        height=picture.height,
        file_bytes=len(data),
        sha256=sha256,
        thumbnail=small,
        properties=properties,
    )


def _is_known(data: bytes, sha256: str, known: KnownContents) -> bool:
    # Content without a signature is decoded by its file's extension, which may differ from that of the stored row.
    return sniff(data[:SNIFFED_BYTES]) is not None and known.find(sha256) is not None


def _undecodable(task: Task, code: str, message: str) -> Undecodable:
    # Libraries quote what they read, and the store takes text only.
    return Undecodable(task.ticket, code, as_text(message)[:MESSAGE_CHARACTERS])


def limit_memory(max_pixels: int) -> None:
    """Limit this process to the memory of the largest allowed image: a decompression bomb becomes an error.

    Sixteen bytes per pixel hold two copies as RGBA and one as RGB, with some to spare; shared memory does not count.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = BASE_BYTES + 16 * max_pixels
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def serve(connection: Connection, memory: mmap.mmap, known_descriptor: int) -> None:
    """Answer tasks until the other side closes the connection."""
    config = connection.recv()
    limit_memory(config.max_pixels)
    slots = slots_of(memory, config.transform)
    connection.send("ready")
    known = None
    tasks: deque[Task] = deque()

    def admit(pixels: int) -> None:
        if pixels > config.large_pixels:
            connection.send(Asks(pixels))
            while (message := connection.recv()) != GO:
                tasks.append(message)

    while True:
        task = tasks.popleft() if tasks else connection.recv()
        # Written, if at all, before the images that may be in it are sent.
        known = known or read_known(known_descriptor)
        connection.send(decode(task, config, slots[task.slot], known, admit))


def main(arguments: list[str]) -> None:
    """Run a decode process on the three inherited descriptors."""
    socket, memory, known, parent = (int(argument) for argument in arguments)
    # A signal to the whole process group must not look like images that kill their decoder: the parent ends this
    # process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent(parent)
    try:
        serve(Connection(socket), mmap.mmap(memory, 0), known)
    except (EOFError, ConnectionError):
        return


if __name__ == "__main__":
    # Under its importable name, so that the other side can unpickle its outcomes.
    from extractor.images import child

    child.main(sys.argv[1:])
