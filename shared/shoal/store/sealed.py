"""Results that are prepared in a hidden folder, published as a whole, then only read: clusterings, assignments.

files.json, written last, has the size and the checksum of every other file of the folder.
"""

from __future__ import annotations

import json
import secrets
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import JsonValue, ShoalError, StoreError
from shoal.store.documents import first_line
from shoal.store.files import damage_of, files_below, publish_folder, record_file, remove_quietly, storage_errors
from shoal.store.layout import SealedLayout, is_id
from shoal.store.npy import NPY_ERRORS
from shoal.store.records import FileRecord, FilesRecord, seal_of

FORMAT = 1
ROW_GROUP = 131_072
L = TypeVar("L", bound=SealedLayout)


def read_records(layout: SealedLayout) -> dict[str, FileRecord]:
    """Read the records of files.json, by path.

    Raises
    ------
    ValueError
        The file is damaged, or does not match its seal.
    """
    content = layout.files.read_bytes()
    found = FilesRecord.model_validate_json(content)
    if seal_of(json.loads(content)) != found.seal:
        raise ValueError("it does not match its seal")
    return {record.path: record for record in found.files}


class SealedFolder(ABC, Generic[L]):
    """A published, immutable folder, whose files are compared with their records before they are read.

    Parameters
    ----------
    layout
        Its paths.
    result_id
        Its id, if it is not the folder's name.
    """

    def __init__(self, layout: L, result_id: str | None = None) -> None:
        self.layout = layout
        self.id = result_id or layout.folder.name
        self._records: dict[str, FileRecord] = {}
        if layout.files.exists():  # older clusterings have no checksums
            with self.reading(layout.files, checked=False):
                self._records = read_records(layout)

    @abstractmethod
    def corrupt(self, path: Path, problem: str) -> ShoalError:
        """The error for a damaged file, or for a folder that was deleted while it was read."""

    def check(self, path: Path) -> Path:
        """Compare one of the files with its record; returns ``path``.

        Raises
        ------
        StoreCorrupt
            The file is missing or damaged.
        """
        record = self._records.get(self.layout.name_of(path))
        try:
            problem = damage_of(path, record) if record else None
            if record is None and not path.is_file():
                problem = "is missing"
        except FileNotFoundError:
            problem = "is missing"
        if problem:
            raise self.corrupt(path, problem)
        return path

    @contextmanager
    def reading(self, path: Path, *, checked: bool = True) -> Iterator[None]:
        """Compare a file with its record, and turn errors of reading it into `StoreCorrupt`."""
        if checked and self._records:
            self.check(path)
        try:
            yield
        except (KeyError, pa.ArrowException, zipfile.BadZipFile, *NPY_ERRORS) as error:
            raise self.corrupt(path, f"cannot be read ({first_line(error)})") from error

    def _has(self, path: Path) -> bool:
        """Whether the folder was published with this file, even if it is missing now."""
        return self.layout.name_of(path) in self._records or path.is_file()

    def _table(self, path: Path, **options: JsonValue) -> pa.Table:
        with self.reading(path):
            return pq.read_table(path, partitioning=None, **options)

    def _batches(self, path: Path, batch_rows: int) -> Iterator[pa.RecordBatch]:
        with self.reading(path), pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=batch_rows)

    def _json(self, path: Path) -> dict[str, JsonValue]:
        with self.reading(path):
            document: JsonValue = json.loads(path.read_bytes())
            if not isinstance(document, dict):
                raise ValueError("it is not a JSON object")
            return document


class SealedWriter(Generic[L]):
    """Writes a result in a hidden folder; `publish` makes it appear in one step.

    As a context manager it removes an unpublished result on exit.

    Parameters
    ----------
    final
        Paths of the result once it is published; the name of their folder is its id.
    temporary
        The store's folder for what is being prepared.
    """

    def __init__(self, final: L, temporary: Path) -> None:
        name = final.folder.name
        if not is_id(name):
            raise StoreError(f"{name!r} is not an id: use letters, digits, `.`, `_` and `-` only.")
        self._final = final.folder
        self.layout = type(final)(temporary / f"{name}.{secrets.token_hex(8)}")

    def __enter__(self) -> Self:
        try:
            with storage_errors(self.layout.folder):
                for each in self._folders():
                    each.mkdir(parents=True)
        except BaseException:
            remove_quietly(self.layout.folder)
            raise
        return self

    def _folders(self) -> list[Path]:
        """The folders that a result has, the outer one first."""
        return [self.layout.folder]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        remove_quietly(self.layout.folder)

    def spec(self, document: Mapping[str, JsonValue]) -> None:
        """Write spec.json."""
        self._json(self.layout.spec, {"format": FORMAT, **document})

    def run(self, document: Mapping[str, JsonValue]) -> None:
        """Write run.json."""
        self._json(self.layout.run, document)

    def publish(self) -> bool:
        """Make the result appear; False if one of that id exists, unchanged."""
        folder = self.layout.folder
        with storage_errors(self.layout.files):
            files = tuple(record_file(path, self.layout.name_of(path)) for path in files_below(folder))
            self.layout.files.write_text(FilesRecord(files=files).sealed().model_dump_json(indent=1) + "\n")
        return publish_folder(folder, self._final)

    def _json(self, path: Path, document: Mapping[str, JsonValue]) -> None:
        self._bytes(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")

    def _bytes(self, path: Path, content: bytes) -> None:
        with storage_errors(path), path.open("xb") as file:
            file.write(content)

    def _table(self, path: Path, table: pa.Table) -> None:
        with storage_errors(path):
            pq.write_table(table, path, compression="zstd")

    def _tables(self, path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
        """Write a table that comes in parts, each a row group."""
        with storage_errors(path), pq.ParquetWriter(path, schema, compression="zstd") as file:
            for table in tables:
                file.write_table(table.cast(schema), row_group_size=ROW_GROUP)
