"""Valid bytes of what Shoal parses itself, changed at random: they are read, or refused with an error of Shoal's own.

Seeded, so that each run sees the same bytes. No change may crash a process, take long, or have memory taken for what a
header only claims.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor.uploads.files import Files
from extractor.uploads.unpack import unpack
from safetensors.numpy import save as to_safetensors
from shoal import errors
from shoal.errors import ShoalError
from shoal.importer import import_embeddings
from shoal.store import RowMetadata, Store, image_id
from shoal.store.journal import check_journal
from shoal.store.npy import NpyInvalid, map_npy
from shoal.store.records import seal_of
from shoal.store.uploads import PartRecord, Uploads
from shoal.store.verify import VerifyReport

from tests.extractor.uploads.test_unpack import KINDS
from tests.faults import store_attempt as attempts

MOST_BYTES = 32 << 20
"""Far more than reading any of the small files takes; headers claim far more."""
MOST_CPU_S = 5.0
EDGES = (0, 1, 9, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**53, 2**63 - 1, 2**64 - 1)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 0.5, 1e308, [], {}, [[]], [1], {"a": 1}),
    *("", "x", "../../etc/passwd", "/", "\0", "\ud800", "9" * 5000, "e" * 70_000, "2026-01-01T00:00:00Z"),
)
Read = Callable[[bytes], object]


def mutants(valid: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``valid`` with a few changes each, most of them near its start and its end, where headers are."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(valid)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            _change(data, rng)
        yield bytes(data)


def _change(data: bytearray, rng: random.Random) -> None:
    size = len(data)
    near = min(size, 300)
    at = rng.choice((rng.randrange(near + 1), rng.randrange(near + 1), size - rng.randrange(near + 1)))
    at = rng.choice((at, at, at, rng.randrange(size + 1)))
    length = rng.randrange(1, 24)
    match rng.randrange(8):
        case 0:
            data[at : at + 1] = bytes([rng.randrange(256)])
        case 1:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(EDGES) % 256**width
            data[at : at + width] = number.to_bytes(width, rng.choice(("little", "big")))
        case 2:
            del data[at : at + length]
        case 3:
            data[at:at] = data[at : at + length]
        case 4:
            data[at:at] = b"9" * length
        case 5:
            data[at:] = b""
        case 6:
            data[at : at + length] = bytes(length)
        case _:
            other = rng.randrange(size + 1)
            data[at : at + length] = data[other : other + length]


def documents(valid: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """A JSON document with a few values or keys changed; a seal that it has is that of what it says."""
    rng = random.Random(seed)
    for _ in range(count):
        document = json.loads(valid)
        for _ in range(rng.choice((1, 1, 2))):
            _change_value(document, rng)
        if "seal" in document and rng.randrange(8):
            with suppress(UnicodeEncodeError):
                document["seal"] = seal_of(document)
        yield json.dumps(document).encode()


def _change_value(document: Any, rng: random.Random) -> None:
    place = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.randrange(3):
            place = place[key]
            continue
        if isinstance(place, dict) and not rng.randrange(4):
            place[f"{key}{rng.choice(('', '_', 'x'))}"] = place.pop(key)
        elif not rng.randrange(8):
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        return


@dataclass
class Outcomes:
    """How many were read and how many refused."""

    read: int = 0
    refused: int = 0


def check(read: Read, changed: Iterator[bytes], *, own: type[Exception] = ShoalError) -> Outcomes:
    """Read each; every error is one of Shoal's, with a code that stands in its list; no memory for claims."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, ShoalError)]
    codes = {each.code for each in classes} - {ShoalError.code}
    found = Outcomes()
    tracemalloc.start()
    try:
        for data in changed:
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], time.thread_time()
            try:
                read(data)
            except Exception as error:
                known = isinstance(error, own) and (own is not ShoalError or getattr(error, "code", "") in codes)
                if not known:
                    raise AssertionError(f"{type(error).__name__}: {error}; the bytes are {data[:2000]!r}") from error
                found.refused += 1
            else:
                found.read += 1
            assert tracemalloc.get_traced_memory()[1] - before < MOST_BYTES, data
            assert time.thread_time() - began < MOST_CPU_S, data
    finally:
        tracemalloc.stop()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_changed_bodies_of_uploads(tmp_path: Path, kind: str) -> None:
    """Fails without: the errors of an archive that names places beyond its end."""
    body = tmp_path / "body"

    def read(data: bytes) -> None:
        folder = tmp_path / "out"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        body.write_bytes(data)
        unpack(body, kind, Files(folder, len(data), 2**30, 1000))
        assert {path.name for path in tmp_path.iterdir()} == {"body", "out"}

    valid = KINDS[kind]({"a/b.png": b"some content" * 20, "ü.png": b"more" * 300, "c/": b""})
    outcomes = check(read, mutants(valid, 150))
    assert min(outcomes.read, outcomes.refused) > 0


def _npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version=version)
    return out.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_changed_npy_files(tmp_path: Path, version: tuple[int, int]) -> None:
    """Fails without: the errors of a header that cannot be read."""
    path = tmp_path / "a.npy"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with path.open("rb") as file:
            map_npy(file)

    valid = _npy(np.arange(12, dtype=np.float32).reshape(4, 3), version)
    assert check(read, mutants(valid, 500), own=NpyInvalid).refused > 50


def _npz(rows: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.savez(out, embeddings=rows)
    return out.getvalue()


def _torch(rows: np.ndarray) -> bytes:
    import torch

    out = io.BytesIO()
    torch.save({"embeddings": torch.from_numpy(rows)}, out)
    return out.getvalue()


FORMATS: dict[str, Callable[[np.ndarray], bytes]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _torch,
    ".safetensors": lambda rows: to_safetensors({"embeddings": rows}),
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_changed_files_of_embeddings(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        import_embeddings(Store(tmp_path / "store"), path, name="mine", labels=None, split=None)
        shutil.rmtree(tmp_path / "store")

    outcomes = check(read, mutants(FORMATS[suffix](np.arange(24, dtype=np.float32).reshape(4, 6)), 50))
    assert outcomes.refused > 10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A set, a journal of names and an upload."""
    store = Store(tmp_path / "store")
    plan, listing = attempts.small_plan()
    store.create_embeddings(plan, listing)
    for shard in range(plan.shards):
        attempts.attempt(store, plan, shard, "a")
    store.finish_embeddings(plan.id)
    store.layout.clustering("named").folder.mkdir(parents=True)
    attempts.name_cluster(store, 1, "first")
    upload, _ = Uploads(store.layout).create(None, "key")
    (tmp_path / "part").mkdir()
    upload.add(PartRecord(part=0, images=0, bytes=0, sha256="0" * 64), tmp_path / "part")
    return store


def _read_set(store: Store) -> None:
    for name in store.embeddings_ids():
        store.verify(name)
        found = store.embeddings(name)
        found.take(np.array([0]))
        found.metadata(["image_path"])
        found.errors()


def _read_journal(store: Store) -> None:
    check_journal(store.layout, "named", VerifyReport("named"), None)
    store.journal("named").read()


def _read_uploads(store: Store) -> None:
    """One whose documents are damaged is not there."""
    for upload in Uploads(store.layout).all():
        upload.place()


@pytest.mark.parametrize(
    ("name", "read_part"),
    [
        ("embeddings/*/plan.json", _read_set),
        ("embeddings/*/manifest.json", _read_set),
        ("embeddings/*/commits/00000.json", _read_set),
        ("annotations/named/*.json", _read_journal),
        ("uploads/*/upload.json", _read_uploads),
        ("uploads/*/parts.jsonl", _read_uploads),
    ],
)
def test_changed_documents_of_a_store(store: Store, name: str, read_part: Callable[[Store], None]) -> None:
    [path] = store.root.glob(name)
    valid = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        read_part(store)

    check(read, mutants(valid, 40))
    check(read, documents(valid, 40))
    read(valid)


def test_changed_parts_of_a_shard(store: Store) -> None:
    """What is saved of a shard and cannot be read is embedded again: it is no error."""
    plan, listing = attempts.small_plan(6, 6)
    store.create_embeddings(plan, listing)
    with store.shard_writer(plan.id, 0, attempt=1, owner="a") as writer:
        writer.keep_unsaved()
        record = RowMetadata(image_id("0.png"), "0.png", sha256=f"{1:064}")
        writer.append(attempts.vectors(range(1), plan.dim, "a"), [record], [b"a"])
        segment = writer.take_unsaved()
        assert segment is not None
        writer.save(segment)
    [path] = store.root.glob("embeddings/*/parts/*/*.segment")
    valid = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with store.shard_writer(plan.id, 0, attempt=2, owner="b") as writer:
            writer.resume()
            assert writer.done in {0, 1}

    assert check(read, mutants(valid, 60)).refused == 0
