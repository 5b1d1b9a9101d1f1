"""Importing embeddings, from the files to the finished set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from shoal.errors import ImportInvalid
from shoal.importer.keys import Keys
from shoal.importer.parts import Limits, Part, open_sets
from shoal.importer.rows import Rows, read_rows
from shoal.importer.values import check_values, chunks
from shoal.labels import Columns
from shoal.schemas import NAME_PATTERN, NAME_RULE
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id
from shoal.store.npy import release_pages

log = logging.getLogger(__name__)
OnRows = Callable[[str, int, int], None]
"""Receives the stage, ``check`` or ``copy``, the rows done, and all rows."""


def _unheard(stage: str, done: int, total: int) -> None:
    """Nobody asks how far it is."""


def import_embeddings(
    store: Store,
    path: Path,
    *,
    name: str,
    labels: Path | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    dtype: Literal["float16", "float32"] | None = None,
    shard_rows: int = 100_000,
    keys: Keys | None = None,
) -> str:
    """Copy existing embeddings into the store as a finished embeddings set; returns its id.

    The id is ``name`` and a hash of the content: importing the same content again copies nothing, and an interrupted
    import is continued.

    Parameters
    ----------
    path
        A file of ``(n, dim)`` float16, float32 or float64: ``.npy``, ``.npz``, ``.pt``, ``.safetensors``, HDF5 or
        Parquet. Or a folder of files of one of these formats, read in the natural order of their names. Or a folder in
        clip-retrieval's layout: ``img_emb/*.npy`` and optionally ``metadata/*.parquet``, paired by the numbers in their
        names. Of the metadata the image's path (`metadata.PATHS`), ``label``, ``split``, ``width``, ``height`` and
        ``bytes`` are kept.
    labels, columns
        A label file and its columns; overrides the files' own labels. See `shoal.labels.read_labels` and `join`.
    split
        Split of every row; takes precedence over the files' own.
    dtype
        What to store; by default float16 if all files are float16, else float32. Rounding float64 is logged.
    shard_rows
        Rows per file.
    keys
        Which arrays, tensors, datasets or columns of the files are read; found by their names by default.

    Raises
    ------
    ImportInvalid
        The files are not as described above; the message names the file, row or field.
    StoreFull
        The disk is full.
    """
    sets = open_sets(path, keys or Keys())
    if len(sets) > 1:
        raise ImportInvalid(
            f"{path} holds the sets {_quoted(sets)}. Choose the embeddings of one by their key, or import all with "
            "`import_sets`.",
            file=str(path),
        )
    (parts,) = sets.values()
    wanted = _Wanted(name, labels, columns, split, dtype, shard_rows)
    with _closing(parts):
        return _copy(store, _checked(path, parts, wanted))


def import_sets(
    store: Store,
    path: Path,
    *,
    name: str,
    labels: Path | None = None,
    columns: Columns | None = None,
    split: str | None = None,
    keys: Keys | None = None,
    limits: Limits | None = None,
    on_rows: OnRows = _unheard,
) -> dict[str, str]:
    """Import every set of a file or folder, such as the sets train, val and obj of ``train_embs``, ``val_embs``, ….

    Parameters are those of `import_embeddings`. Each set is named ``<name>-<set>``, and its split is the set's name.

    Parameters
    ----------
    limits
        Of what the files may hold; None for files that can be trusted.
    on_rows
        Called for every block of rows, and again from the first row for each stage and set.

    Returns
    -------
    dict of str to str
        The embeddings id of each set, in the file's order; a single set has the empty name.

    Raises
    ------
    ImportInvalid
        As for `import_embeddings`; or ``labels`` is given for several sets. Every set is checked before the first is
        stored.
    StoreFull
        The disk is full.
    """
    sets = open_sets(path, keys or Keys())
    if len(sets) > 1 and labels is not None:
        raise ImportInvalid(
            f"{path} holds the sets {_quoted(sets)}, and a label file is for one. Choose it with --key, such as `--key "
            f"{next(iter(sets.values()))[0].vectors.name}`.",
            file=str(path),
        )
    with ExitStack() as stack:
        for parts in sets.values():
            stack.enter_context(_closing(parts))
        if limits is not None:
            limits.check(path, sets)
        checked: dict[str, _Checked] = {}
        for each, parts in sets.items():
            named = f"{name}-{each}" if each else name
            checked[each] = _checked(path, parts, _Wanted(named, labels, columns, split or each or None), on_rows)
        return {each: _copy(store, found, on_rows) for each, found in checked.items()}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


@dataclass(frozen=True)
class _Wanted:
    """How a set is stored; see `import_embeddings`."""

    name: str
    labels: Path | None
    columns: Columns | None
    split: str | None
    dtype: Literal["float16", "float32"] | None = None
    shard_rows: int = 100_000


@dataclass(frozen=True)
class _Checked:
    """A set whose every value has been read once."""

    parts: Sequence[Part]
    rows: Rows
    plan: Plan
    listing: pa.Table


@contextmanager
def _closing(parts: Sequence[Part]) -> Iterator[None]:
    with ExitStack() as stack:
        for part in parts:
            stack.callback(part.close)
        yield


def _checked(path: Path, parts: Sequence[Part], wanted: _Wanted, on_rows: OnRows = _unheard) -> _Checked:
    stored = wanted.dtype or ("float16" if all(part.vectors.dtype == np.float16 for part in parts) else "float32")
    rows = read_rows(path, parts, wanted.labels, wanted.split, wanted.columns)
    digest = check_values(parts, np.dtype(stored), partial(on_rows, "check"))
    plan, listing = _plan(path, parts, rows, digest, stored, wanted)
    return _Checked(parts, rows, plan, listing)


def _copy(store: Store, checked: _Checked, on_rows: OnRows = _unheard) -> str:
    found = store.create_embeddings(checked.plan, checked.listing)
    total = len(checked.rows.paths)
    for shard in found.missing_shards():
        _write_shard(store, found.id, checked.plan, shard, checked.parts, checked.rows)
        on_rows("copy", min(checked.plan.shard_range(shard)[1], total), total)
    store.finish_embeddings(found.id)
    return found.id


def _plan(
    path: Path, parts: Sequence[Part], rows: Rows, digest: str, dtype: str, wanted: _Wanted
) -> tuple[Plan, pa.Table]:
    imported = sorted({part.vectors.type_name for part in parts})
    if "float64" in imported:
        log.warning("%s holds float64, which is stored as %s.", path, dtype)
    listing = pa.table(
        {
            "image_id": pa.array([image_id(value) for value in rows.paths], pa.string()),
            "image_path": pa.array(rows.paths, pa.string()),
            "label": pa.array(rows.labels, pa.string()),
            "split": pa.array(rows.splits, pa.string()),
        }
    )
    try:
        plan = Plan(
            name=wanted.name,
            source=Source.of(
                listing,
                kind="import",
                path=path.name,
                labels=wanted.labels.name if wanted.labels else None,
                split=wanted.split,
            ),
            model=ModelRecord(name=wanted.name, backend="import", architecture="unknown", embedding="imported"),
            transform={"imported_dtype": ",".join(imported), "content_sha256": digest},
            dim=parts[0].dim,
            dtype=dtype,
            shard_rows=wanted.shard_rows,
        )
    except ValidationError as error:
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        pattern = (error.errors()[0].get("ctx") or {}).get("pattern")
        why = NAME_RULE if pattern == NAME_PATTERN else f"{error.errors()[0]['msg']}."
        raise ImportInvalid(f"`{field}`: {why}", field=field) from error
    return plan, listing


def _write_shard(store: Store, embeddings_id: str, plan: Plan, shard: int, parts: Sequence[Part], rows: Rows) -> None:
    with store.shard_writer(embeddings_id, shard, attempt=1, owner="import") as writer:
        for part, lo, hi, first in chunks(parts, *plan.shard_range(shard)):
            metadata = [
                RowMetadata(
                    image_id=image_id(rows.paths[row]),
                    image_path=rows.paths[row],
                    label=rows.labels[row],
                    split=rows.splits[row],
                    width=rows.numbers["width"][row],
                    height=rows.numbers["height"][row],
                    bytes=rows.numbers["bytes"][row],
                )
                for row in range(first, first + hi - lo)
            ]
            block = part.vectors.read(lo, hi)
            writer.append(block, metadata)
            release_pages(block)
        writer.commit()
