"""A folder as an upload: parts that are the same at every try, so that only missing ones are sent."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import httpx

from shoal.client.requests import Request
from shoal.client.transport import Transport
from shoal.client.vectors import Json
from shoal.embedding_files import EMBEDDING_SUFFIXES, MAX_PIECES, piece_name
from shoal.errors import ImportInvalid, InvalidRequest, NoImages, PathNotFound, TooManyRequests, Unavailable
from shoal.image_suffixes import IMAGE_SUFFIXES

PART_BYTES: Final = 8 * 2**20
PART_FILES: Final = 2000
WORKERS: Final = 2
PATIENCE_S: Final = 600.0
"""How long a part is sent again to a service that does not answer."""
PAUSE_S: Final = 1.0
LARGEST_OTHER: Final = 64 * 2**20
"""A larger file without the extension of an image, such as a video, is not sent."""
TAR: Final = "application/x-tar"
UPLOAD: Final = "upload:"
Send = Callable[[Request], Coroutine[object, None, httpx.Response]]


@dataclass(frozen=True)
class Entry:
    """A file or a piece of one, and its path in the upload."""

    name: str
    path: Path
    size: int
    changed_ns: int
    start: int = 0

    def read(self) -> bytes:
        """Its content."""
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)

    def pieces(self, size: int) -> Iterator[Entry]:
        """The file in pieces of ``size`` bytes, or as it is where it is no larger."""
        count = -(-self.size // size)
        if count <= 1:
            yield self
            return
        for number in range(count):
            start = number * size
            name = piece_name(self.name, number, count)
            yield Entry(name, self.path, min(size, self.size - start), self.changed_ns, start)


@dataclass(frozen=True)
class Part:
    """Files that are sent together, as a tar that has the same bytes at every try."""

    number: int
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Their size."""
        return sum(entry.size for entry in self.entries)

    def body(self) -> bytes:
        """The tar.

        Raises
        ------
        PathNotFound
            A file is gone.
        """
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for entry in self.entries:
                try:
                    content = entry.read()
                except OSError as error:
                    raise PathNotFound(f"{entry.path} cannot be read ({error.strerror}).") from None
                member = tarfile.TarInfo(entry.name)
                member.size, member.mtime = len(content), entry.changed_ns // 10**9
                archive.addfile(member, io.BytesIO(content))
        return out.getvalue()


@dataclass(frozen=True)
class Outgoing:
    """The files of an upload in their parts.

    Attributes
    ----------
    key
        The same for the same paths, sizes and times of change: the service finds the upload by it.
    """

    parts: tuple[Part, ...]
    key: str

    @classmethod
    def of(cls, images: str | Path | Iterable[str | Path], extra: Mapping[str, Path]) -> Outgoing:
        """What ``images`` are: a folder, or files.

        Raises
        ------
        PathNotFound, NoImages, InvalidRequest
            There is no such folder, it has no files, or two files have one name.
        """
        if isinstance(images, str | Path):
            entries = list(_of_folder(Path(images).expanduser()))
        else:
            entries = [_entry(path.name, path) for path in (Path(each).expanduser() for each in images)]
        return cls._of_entries([*entries, *(_entry(name, path) for name, path in extra.items())], "images")

    @classmethod
    def of_embeddings(cls, path: Path, extra: Mapping[str, Path]) -> Outgoing:
        """A file or folder of embeddings below the name `sent_name`, in pieces where a file is larger than a part.

        Raises
        ------
        PathNotFound, NoImages, InvalidRequest
            As for `of`.
        ImportInvalid
            A file is too large.
        """
        named = sent_name(path)
        sent = {f"{named}/{each.relative_to(path).as_posix()}": each for each in _embedding_files(path)}
        files = [_entry(name, each) for name, each in {**(sent if path.is_dir() else {named: path}), **extra}.items()]
        for each in files:
            if each.size > MAX_PIECES * PART_BYTES:
                raise ImportInvalid(
                    f"{each.path} has {each.size:,} bytes; at most {MAX_PIECES * PART_BYTES:,} can be sent.",
                    file=str(each.path),
                )
        return cls._of_entries([piece for each in files for piece in each.pieces(PART_BYTES)], "path")

    @classmethod
    def _of_entries(cls, entries: list[Entry], field: str) -> Outgoing:
        entries = sorted(entries, key=lambda each: each.name)
        if not entries:
            raise NoImages("There are no files to upload.", field=field)
        for one, next_one in pairwise(entries):
            if one.name == next_one.name:
                raise InvalidRequest(f"Two files have the name {one.name!r}. Rename one of them.")
        listed = [[each.name, each.size, each.changed_ns] for each in entries]
        key = hashlib.sha256(json.dumps([PART_BYTES, listed]).encode("utf-8", "surrogatepass")).hexdigest()
        return cls(tuple(_in_parts(entries)), key)


def sent_name(path: Path) -> str:
    """The name in the upload of a file or folder of embeddings: its own, but never that of a hidden one."""
    return path.resolve().name.lstrip(".") or "embeddings"


def _embedding_files(path: Path) -> Iterator[Path]:
    """The files of a folder that its import reads."""
    if not path.is_dir():
        return
    for pattern in ("*", "img_emb/*.npy", "metadata/*.parquet"):
        for each in path.glob(pattern):
            if not each.name.startswith(".") and each.suffix.lower() in EMBEDDING_SUFFIXES and each.is_file():
                yield each


def _of_folder(folder: Path) -> Iterator[Entry]:
    if not folder.is_dir():
        raise PathNotFound(f"The folder {folder.absolute()} does not exist.")
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(where) / name
            if name.startswith(".") or not path.is_file():
                continue
            entry = _entry(path.relative_to(folder).as_posix(), path)
            if entry.size <= LARGEST_OTHER or path.suffix.lower() in IMAGE_SUFFIXES:
                yield entry


def _entry(name: str, path: Path) -> Entry:
    try:
        status = path.stat()
    except OSError as error:
        raise PathNotFound(f"{path} cannot be read ({error.strerror}).") from None
    return Entry(name, path, status.st_size, status.st_mtime_ns)


def _in_parts(entries: list[Entry]) -> Iterator[Part]:
    number, size, taken = 0, 0, list[Entry]()
    for entry in entries:
        if taken and (size + entry.size > PART_BYTES or len(taken) == PART_FILES):
            yield Part(number, tuple(taken))
            number, size, taken = number + 1, 0, []
        taken.append(entry)
        size += entry.size
    yield Part(number, tuple(taken))


def images_of(path: str) -> Json:
    """`images` of a request for ``path``, which may be ``upload:<id>`` or ``upload:<id>/<folder>``."""
    if not path.startswith(UPLOAD):
        return {"path": path}
    upload, _, inner = path.removeprefix(UPLOAD).partition("/")
    return {"upload": upload, "path": inner} if inner else {"upload": upload}


def beside_embeddings(path: Path, labels: str | Path | Json | None) -> tuple[dict[str, Path], Json | None]:
    """The label file of this machine to send beside embeddings, and `labels` that name it in the upload."""
    if labels is None:
        return {}, None
    chosen: Json = dict(labels) if isinstance(labels, dict) else {"file": labels}
    file = Path(str(chosen.get("file"))).expanduser()
    if not file.is_file():
        raise PathNotFound(f"The label file {file} does not exist.", field="labels")
    name = f"{'labels' if sent_name(path) != 'labels' else 'label-file'}/{file.name.lstrip('.')}"
    return {name: file}, {**chosen, "file": name}


def with_label_file(folder: Path, chosen: Json) -> tuple[dict[str, Path], Json]:
    """The label file of this machine to send beside a folder, and the fields of `images` that name it there."""
    labels = chosen.get("labels")
    if not isinstance(labels, dict) or "file" not in labels:
        return {}, chosen
    file = Path(str(labels["file"])).expanduser()
    found = next((each for each in (file, folder / file, folder.parent / file) if each.is_file()), None)
    if found is None:
        raise PathNotFound(f"The label file {file} does not exist.", field="images.labels")
    inside = found.resolve().is_relative_to(folder.resolve())
    name = found.resolve().relative_to(folder.resolve()).as_posix() if inside else found.name
    return {} if inside else {name: found}, {**chosen, "labels": {**labels, "file": name}}


async def send_upload(
    transport: Transport, send: Send, outgoing: Outgoing, on_progress: Callable[[int, int], None] | None
) -> Json:
    """Send the parts that have not arrived, and complete the upload."""
    begun = await send(Request("extractor", "POST", "/uploads", headers={"Idempotency-Key": outgoing.key}))
    state: Json = begun.json()
    if state["complete"]:
        return state
    path = f"/uploads/{state['upload']}"
    arrived = {part["part"]: part["sha256"] for part in (await send(Request("extractor", "GET", path))).json()["parts"]}
    parts = iter(outgoing.parts)
    total, sent = sum(part.size for part in outgoing.parts), 0

    async def worker() -> None:
        nonlocal sent
        while (part := next(parts, None)) is not None:
            body = await transport.work(part.body)
            if arrived.get(part.number) != hashlib.sha256(body).hexdigest():
                await _send_part(
                    transport,
                    send,
                    Request(
                        "extractor", "PUT", f"{path}/parts/{part.number}", content=body, headers={"Content-Type": TAR}
                    ),
                )
            sent += part.size
            if on_progress is not None:
                on_progress(sent, total)

    await transport.together(worker, min(WORKERS, len(outgoing.parts)))
    done: Json = (await send(Request("extractor", "POST", f"{path}/complete"))).json()
    return done


async def _send_part(transport: Transport, send: Send, request: Request) -> None:
    """Send a part until it has arrived: the same part again changes nothing."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            await send(request)
            return
        except (Unavailable, TooManyRequests):
            if time.monotonic() > until:
                raise
        await transport.sleep(PAUSE_S)
