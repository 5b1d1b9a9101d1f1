"""Receiving uploads: who may send how much, and how a body becomes a part of an upload."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from shoal.deadline import Deadline
from shoal.errors import InvalidRequest, QuotaExceeded, StoreFull, TooManyUploads, UploadComplete, UploadConflict
from shoal.settings import MIN_FREE_BYTES, Settings
from shoal.store import Store
from shoal.store.files import remove_quietly, storage_errors
from shoal.store.uploads import MAX_PARTS, PartRecord, Upload, Uploads
from shoal.web.spool import Spooled

from extractor.uploads.files import Files
from extractor.uploads.unpack import unpack

AT_ONCE: Final = 8
"""Bodies that one key may send at the same time."""
ALL_AT_ONCE: Final = 64
RETRY_S: Final = 1
SLACK_BYTES: Final = 1 << 20
"""An archive is larger than its files: its headers count no bytes of the quota."""


@dataclass
class Receiver:
    """What all requests with uploads share.

    Attributes
    ----------
    settings
        Quota and limits.
    store
        Its ``uploads`` folder takes the files.
    """

    settings: Settings
    store: Store
    uploads: Uploads = field(init=False)
    _arriving: Counter[str | None] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.uploads = Uploads(self.store.layout)

    @contextmanager
    def arriving(self, owner: str | None) -> Iterator[None]:
        """Count one more body that arrives.

        Raises
        ------
        TooManyUploads
            Too many arrive already.
        """
        with self._lock:
            if self._arriving[owner] >= AT_ONCE or self._arriving.total() >= ALL_AT_ONCE:
                raise TooManyUploads(
                    f"An API key may send at most {AT_ONCE} bodies at once, and all together {ALL_AT_ONCE}. Send this "
                    "one again later.",
                    retry_after_s=RETRY_S,
                )
            self._arriving[owner] += 1
        try:
            yield
        finally:
            with self._lock:
                self._arriving[owner] -= 1

    def room(self, owner: str | None, declared: int = 0) -> tuple[int, int]:
        """Bytes and files that the quota leaves to ``owner``.

        Parameters
        ----------
        declared
            Bytes that are about to arrive.

        Raises
        ------
        QuotaExceeded
            Nothing is left, or far less than ``declared``.
        StoreFull
            The disk has no room for them.
        """
        used = self.uploads.of(owner)
        left = self.settings.upload_quota - sum(each.bytes for each in used)
        files = self.settings.upload_files - sum(each.images for each in used)
        if left <= 0 or declared > 2 * left + SLACK_BYTES or files <= 0:
            raise QuotaExceeded(
                f"The uploads of this API key may take {int(self.settings.upload_quota):,} bytes and "
                f"{self.settings.upload_files:,} files; {max(left, 0):,} bytes and {max(files, 0):,} files are left. "
                "Delete one with `DELETE /uploads/{id}`.",
                room_bytes=max(left, 0),
            )
        with storage_errors(self.store.root):
            self.store.root.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.store.root).free - declared < MIN_FREE_BYTES:
                raise StoreFull("The store's disk has no room for this upload. Tell its operator.")
        return left, files

    def check_open(self, upload: Upload, number: int) -> None:
        """Raise `UploadComplete` or `InvalidRequest` unless a part of this number may be sent."""
        if not 0 <= number < MAX_PARTS:
            raise InvalidRequest(f"The part {number} is out of range: use 0 to {MAX_PARTS - 1:,}.", field="part")
        if upload.complete and number not in upload.parts:
            raise UploadComplete(f"The upload {upload.id} is complete: no part may follow. Start another upload.")

    def add(
        self, upload_id: str, owner: str | None, number: int, body: Spooled, content_type: str, deadline: Deadline
    ) -> PartRecord:
        """Unpack a body as part ``number`` of an upload. The same body again changes nothing.

        Raises
        ------
        UploadNotFound, UploadComplete, UploadConflict, UploadInvalid, QuotaExceeded, StoreFull
        """
        upload = self.uploads.get(upload_id, owner)
        self.check_open(upload, number)
        if number in upload.parts:
            return _same(upload, number, body)
        room_bytes, room_files = self.room(owner)
        folder = self.store.layout.temporary / f"part-{secrets.token_hex(8)}"
        try:
            with storage_errors(folder):
                folder.mkdir(parents=True)
            files = Files(folder, body.bytes, room_bytes, room_files, deadline)
            unpack(body.path, content_type, files)
            return self._commit(upload_id, owner, number, body, files)
        finally:
            remove_quietly(folder)

    def _commit(self, upload_id: str, owner: str | None, number: int, body: Spooled, files: Files) -> PartRecord:
        """Make unpacked files a part, one at a time, so that the quota holds and each part counts once."""
        with self._lock:
            upload = self.uploads.get(upload_id, owner)
            self.check_open(upload, number)
            if number in upload.parts:
                return _same(upload, number, body)
            room_bytes, room_files = self.room(owner)
            if files.bytes > room_bytes or len(files.paths) > room_files:
                raise QuotaExceeded(
                    "The uploads of this API key have reached their limit. Delete one with `DELETE /uploads/{id}`.",
                    room_bytes=room_bytes,
                )
            size = sum(files.paths.values())
            part = PartRecord(part=number, images=len(files.paths), bytes=size, sha256=body.sha256)
            upload.add(part, files.folder)
            return part


def _same(upload: Upload, number: int, body: Spooled) -> PartRecord:
    part = upload.parts[number]
    if part.sha256 != body.sha256:
        raise UploadConflict(
            f"Part {number} of the upload {upload.id} has other content. Send it as a part of another number, or start "
            "another upload."
        )
    upload.touch()
    return part
