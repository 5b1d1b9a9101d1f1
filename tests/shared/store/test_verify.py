"""The verifier finds damage in every file, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shoal.store.files import record_file
from shoal.store.records import Manifest
from shoal.store.verify import VerifyReport

from tests.shared.store.conftest import Toy

FILES = [
    "plan.json",
    "listing.parquet",
    "manifest.json",
    *(f"commits/{i:05}.json" for i in range(3)),
    *(f"img_emb/img_emb_{i:05}.npy" for i in range(3)),
    *(f"metadata/metadata_{i:05}.parquet" for i in range(3)),
    *(f"thumbs/thumbs_{i:05}.parquet" for i in range(3)),
    "errors/errors_00000.parquet",
]


@pytest.fixture
def toy(make_toy: Callable[..., Toy]) -> Toy:
    toy = make_toy(fails=[4])
    toy.write_all()
    return toy


def _named(report: VerifyReport) -> set[str]:
    return {problem.file for problem in report.problems}


def test_a_whole_set_has_no_problems_and_every_file_was_read(toy: Toy) -> None:
    report = toy.store.verify(toy.id)
    assert (report.ok, report.complete, report.rows, report.failed) == (True, True, 24, 1)
    on_disk = {path.relative_to(toy.folder).as_posix() for path in toy.folder.rglob("*") if path.is_file()}
    assert on_disk == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_found_and_the_file_named(toy: Toy, name: str) -> None:
    path = toy.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x15
    path.write_bytes(content)
    assert name in _named(toy.store.verify(toy.id))


@pytest.mark.parametrize("name", FILES)
def test_a_file_cut_short_is_found_and_named(toy: Toy, name: str) -> None:
    path = toy.folder / name
    path.write_bytes(path.read_bytes()[:-20])
    assert name in _named(toy.store.verify(toy.id))


@pytest.mark.parametrize("name", [name for name in FILES if name not in {"plan.json", "manifest.json"}])
def test_a_lost_file_is_found_and_named(toy: Toy, name: str) -> None:
    (toy.folder / name).unlink()
    assert name in _named(toy.store.verify(toy.id))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_any_changed_byte_is_found(toy: Toy, name: str, where: float, mask: int) -> None:
    path = toy.folder / name
    before = path.read_bytes()
    content = bytearray(before)
    content[int(where * len(content))] ^= mask
    path.write_bytes(content)
    try:
        same = name.endswith(".json") and _meaning(name, content) == _meaning(name, before)
        assert same or not toy.store.verify(toy.id).ok
    finally:
        path.write_bytes(before)


def _meaning(name: str, content: bytes | bytearray) -> object:
    """A manifest whose damaged key is that of a field with its default says the same as before."""
    try:
        return Manifest.model_validate_json(content) if name == "manifest.json" else json.loads(content)
    except ValueError:
        return None


def test_a_set_being_written_has_no_problems(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    toy.write(1)
    report = toy.store.verify(toy.id)
    assert (report.ok, report.complete, report.missing_shards, report.rows) == (True, False, 2, 10)


def test_a_file_that_nobody_committed_is_named(toy: Toy) -> None:
    (toy.folder / "img_emb" / "img_emb_00007.npy").write_bytes(b"x")
    assert _named(toy.store.verify(toy.id)) == {"img_emb/img_emb_00007.npy"}


def _recommit(toy: Toy, name: str) -> None:
    """Make the commit vouch for the file as it is now, as a faulty writer would have."""
    path = toy.folder / "commits" / f"{Path(name).stem.rpartition('_')[2]}.json"
    commit = json.loads(path.read_text())
    record = json.loads(record_file(toy.folder / name, name).model_dump_json())
    commit["files"] = [record if old["path"] == name else old for old in commit["files"]]
    path.write_text(json.dumps(commit))


def test_values_that_are_not_finite_are_found_behind_right_checksums(toy: Toy) -> None:
    name = "img_emb/img_emb_00001.npy"
    values = np.load(toy.folder / name)
    values[3, 2] = np.nan
    np.save(toy.folder / name, values)
    _recommit(toy, name)
    assert "row 3" in next(p.problem for p in toy.store.verify(toy.id).problems if p.file == name)


def test_a_vector_file_of_another_shape_is_found_behind_right_checksums(toy: Toy) -> None:
    name = "img_emb/img_emb_00001.npy"
    np.save(toy.folder / name, np.zeros((10, 3), np.float32))
    _recommit(toy, name)
    assert name in _named(toy.store.verify(toy.id))


def test_images_that_come_twice_are_found_behind_right_checksums(toy: Toy) -> None:
    name = "metadata/metadata_00001.parquet"
    table = pq.read_table(toy.folder / name)
    ids = table.column("image_id").to_pylist()
    ids[0] = ids[1]
    pq.write_table(table.set_column(1, table.schema.field(1), pa.array(ids)), toy.folder / name)
    _recommit(toy, name)
    problems = [p.problem for p in toy.store.verify(toy.id).problems if p.file == "commits/00001.json"]
    assert any("1 images missing" in problem and "1 repeated" in problem for problem in problems)


def test_a_folder_under_another_name_is_found(toy: Toy) -> None:
    toy.folder.rename(toy.folder.with_name("toy-000000000000"))
    assert _named(toy.store.verify("toy-000000000000")) == {"plan.json", "manifest.json"}
