"""Uploads: folders of files that clients send, each of one API key, until they expire.

An upload grows part by part, and is read once it is complete. A line of ``parts.jsonl`` is what makes a part count: it
names the folder in ``arrived/`` with the part's files. Then these, and those of no other part, are moved to
``images/``, now or by whoever adds the next part or completes the upload.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from shoal.errors import UploadIncomplete, UploadInvalid, UploadNotFound
from shoal.store.files import fsync_folder, publish_folder, remove_folder, remove_quietly, storage_errors
from shoal.store.layout import StoreLayout, UploadLayout, ids_in, is_id
from shoal.store.records import Record, Sha256
from shoal.userfiles import shortened

DAY_S = 86_400.0
FIELD = "images.upload"
"""Field of `POST /extract` that names an upload."""
MAX_PARTS = 100_000
"""Parts of one upload."""


class UploadRecord(Record):
    """Whose an upload is.

    Attributes
    ----------
    owner
        Id of the API key that made it; None where no keys are needed.
    """

    format: Literal[1] = 1
    id: str
    owner: str | None
    created_at: datetime


class PartRecord(Record):
    """A part that has arrived.

    Attributes
    ----------
    part
        Its number, which the client chose.
    images, bytes
        Its files, and their size unpacked.
    sha256
        Of its body as it was sent.
    arrived
        Name of the folder that its files were in when it began to count; None for a part that an older version wrote,
        whose files were in place by then.
    """

    part: int = Field(ge=0, lt=MAX_PARTS)
    images: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: Sha256
    arrived: str | None = None


@dataclass(frozen=True)
class Upload:
    """An upload as it was when it was opened."""

    layout: UploadLayout
    record: UploadRecord
    parts: dict[int, PartRecord]

    @property
    def id(self) -> str:
        """Its id."""
        return self.record.id

    @property
    def images(self) -> int:
        """How many files it has."""
        return sum(part.images for part in self.parts.values())

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(part.bytes for part in self.parts.values())

    @property
    def complete(self) -> bool:
        """Whether no part may follow."""
        return self.layout.complete.exists()

    @property
    def used_at(self) -> float:
        """Unix time of its last use; 0 once it is removed."""
        try:
            return self.layout.record.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def touch(self) -> None:
        """Let it expire later: it is used now."""
        with suppress(FileNotFoundError), storage_errors(self.layout.record):
            os.utime(self.layout.record)

    def add(self, part: PartRecord, folder: Path) -> None:
        """Take the files in ``folder``, which goes, as a part: all of them, or none if this raises before it counts.

        Raises
        ------
        UploadInvalid
            A name is a file in this part and a folder in another.
        StoreFull, StoreError
        """
        self.place()
        self._check_names(folder)
        arrived = self.layout.arrived / f"{part.part}-{secrets.token_hex(8)}"
        with storage_errors(arrived):
            arrived.parent.mkdir(exist_ok=True)
            folder.rename(arrived)
        os.sync()  # A part that counts has its files after a power cut, too.
        part = part.model_copy(update={"arrived": arrived.name})
        # A line that a crash cut off ends where the next begins.
        line = f"\n{part.model_dump_json()}\n".encode()
        try:
            with storage_errors(self.layout.parts), self.layout.parts.open("ab") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            if part not in _read_parts(self.layout.parts).values():
                remove_quietly(arrived)
            raise
        self.parts[part.part] = part
        self.place()
        self.touch()

    def place(self) -> None:
        """Move the files of parts that count to their places, where that was cut off."""
        names = _names(self.layout.arrived)
        for part in self.parts.values() if names else ():
            if part.arrived in names:
                self._place(self.layout.arrived / part.arrived)

    def lost(self) -> list[Path]:
        """Folders of parts that do not count: they arrive now, or their process died."""
        counted = {part.arrived for part in self.parts.values()}
        return [self.layout.arrived / name for name in sorted(_names(self.layout.arrived)) if name not in counted]

    def finish(self) -> None:
        """Let no part follow; its files are durable from now on."""
        self.place()
        os.sync()
        # That the file exists is all that it says: it needs no hidden one before it, which a crash would leave behind.
        with storage_errors(self.layout.complete):
            self.layout.complete.touch()
            fsync_folder(self.layout.folder)
        self.touch()

    def _check_names(self, folder: Path) -> None:
        """Refuse files that cannot lie beside those of other parts."""
        seen: set[Path] = set()
        for path in _files(folder):
            with as_invalid(str(path)):
                if (self.layout.images / path).is_dir():
                    raise IsADirectoryError
                for above in path.parents:
                    if above in seen:
                        break
                    seen.add(above)
                    if (self.layout.images / above).is_file():
                        raise NotADirectoryError

    def _place(self, arrived: Path) -> None:
        """Move the files of a part below ``images``, over older ones of the same name."""
        made: set[Path] = set()
        for path in _files(arrived):
            target = self.layout.images / path
            # Another process may have moved it.
            with storage_errors(target), as_invalid(str(path)), suppress(FileNotFoundError):
                if target.parent not in made:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(target.parent)
                (arrived / path).replace(target)
        remove_quietly(arrived)


@contextmanager
def as_invalid(path: str) -> Iterator[None]:
    """A name that is a file here and a folder there is the sender's fault."""
    try:
        yield
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise UploadInvalid(
            f"The name {shortened(path)!r} is a file in one place and a folder in another. Rename one of them."
        ) from None


def _names(folder: Path) -> set[str]:
    try:
        return {each.name for each in folder.iterdir()}
    except FileNotFoundError:
        return set()


def _files(folder: Path) -> Iterable[Path]:
    """The files below a folder, relative to it."""
    return [Path(where, name).relative_to(folder) for where, _, names in os.walk(folder) for name in sorted(names)]


class Uploads:
    """The uploads of a store.

    Parameters
    ----------
    layout
        Of the store.
    """

    def __init__(self, layout: StoreLayout) -> None:
        self._layout = layout
        self._read: dict[str, tuple[int, dict[int, PartRecord]]] = {}

    def create(self, owner: str | None, key: str | None) -> tuple[Upload, bool]:
        """A new upload, or the one that the same owner made with the same ``key``; and whether it is new.

        Parameters
        ----------
        key
            An `Idempotency-Key`; None makes a new one in any case.
        """
        upload_id = f"u-{secrets.token_hex(12)}"
        if key is not None:
            # The key alone decides the id, so that it needs no index.
            digest = hashlib.sha256(json.dumps([owner, key]).encode()).hexdigest()
            upload_id = f"u-{digest[:24]}"
            with suppress(UploadNotFound):
                return self.get(upload_id, owner), False
        record = UploadRecord(id=upload_id, owner=owner, created_at=datetime.now(UTC))
        temporary = self._layout.temporary / f"{upload_id}.{secrets.token_hex(8)}"
        try:
            with storage_errors(temporary):
                (temporary / "images").mkdir(parents=True)
                (temporary / "upload.json").write_text(record.model_dump_json())
                (temporary / "parts.jsonl").touch()
            made = publish_folder(temporary, self._layout.upload(upload_id).folder)
        finally:
            remove_quietly(temporary)
        return self.get(upload_id, owner), made

    def get(self, upload_id: str, owner: str | None, field: str = FIELD) -> Upload:
        """The upload of ``owner`` with this id; ``field`` of the request names it.

        Raises
        ------
        UploadNotFound
            There is none, or it is another key's.
        """
        found = self.find(upload_id)
        if found is None or found.record.owner != owner:
            raise not_found(upload_id, field)
        return found

    def complete(self, upload_id: str, field: str = FIELD) -> Upload:
        """A complete upload, whose ever it is: for a job that was accepted.

        Raises
        ------
        UploadNotFound, UploadIncomplete
        """
        found = self.find(upload_id)
        if found is None:
            raise not_found(upload_id, field)
        return require_complete(found, field)

    def find(self, upload_id: str) -> Upload | None:
        """The upload with this id; None where there is none that can be read."""
        if not is_id(upload_id):
            return None
        layout = self._layout.upload(upload_id)
        try:
            record = UploadRecord.model_validate_json(layout.record.read_bytes())
            return Upload(layout, record, self._parts(layout))
        except (FileNotFoundError, NotADirectoryError, ValidationError):
            self._read.pop(upload_id, None)
            return None

    def all(self) -> Iterator[Upload]:
        """Every upload, in the order of their ids."""
        for upload_id in ids_in(self._layout.uploads_folder):
            found = self.find(upload_id)
            if found is not None:
                yield found

    def of(self, owner: str | None) -> list[Upload]:
        """The uploads of ``owner``, the one used last first."""
        found = [each for each in self.all() if each.record.owner == owner]
        return sorted(found, key=lambda each: -each.used_at)

    def delete(self, upload: Upload) -> None:
        """Remove an upload with its files."""
        remove_folder(upload.layout.folder, self._layout.trash)

    def _parts(self, layout: UploadLayout) -> dict[int, PartRecord]:
        """The parts that count. A file that only grows is read again only when it has grown."""
        size = layout.parts.stat().st_size
        known = self._read.get(layout.folder.name)
        if known is None or known[0] != size:
            known = self._read[layout.folder.name] = (size, _read_parts(layout.parts))
        return dict(known[1])


def _read_parts(file: Path) -> dict[int, PartRecord]:
    found = {}
    for line in file.read_bytes().splitlines():
        with suppress(ValidationError):  # a line that a crash cut off, or an empty one
            part = PartRecord.model_validate_json(line)
            found[part.part] = part
    return found


def require_complete(upload: Upload, field: str = FIELD) -> Upload:
    """``upload``, unless parts may follow.

    Raises
    ------
    UploadIncomplete
    """
    if not upload.complete:
        raise UploadIncomplete(
            f"The upload {upload.id} is not complete: it has {len(upload.parts):,} parts. Send the missing ones, then "
            f"`POST /uploads/{upload.id}/complete`.",
            field=field,
        )
    return upload


def not_found(upload_id: str, field: str = FIELD) -> UploadNotFound:
    """The error for an upload that does not exist, or is another key's."""
    return UploadNotFound(
        f"{upload_id[:200]!r} is not an upload of yours: it does not exist, or has expired. Upload the files again.",
        field=field,
    )


def expired(upload: Upload, days: float) -> bool:
    """Whether it was not used for so many days."""
    return time.time() - upload.used_at > days * DAY_S
