"""Damage in clusterings and sweeps is found by the verifier and refused by readers, with and without checksums."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shoal.errors import ClusteringNotFound, NotFound, StoreCorrupt
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.sweeps import create_sweep
from shoal.store.verify_results import verify_all, verify_any

GOLDEN = Path(__file__).parent / "golden"
OLD, SEALED = "c-0001", "c-0002"
"""Of a version without checksums, and with them."""
EMBEDDINGS = "toy-9a06910a2f2d"
FILES = sorted(
    path.relative_to(GOLDEN / "clusterings" / SEALED).as_posix()
    for path in (GOLDEN / "clusterings" / SEALED).rglob("*")
    if path.is_file()
)
READS: dict[str, Callable[[Clustering], object]] = {
    "spec.json": lambda found: found.spec,
    "run.json": Clustering.run,
    "metrics.json": Clustering.metrics,
    "transform.npz": Clustering.transform_arrays,
    "centroids.npy": Clustering.centroids,
    "seeds/0/centroids.npy": lambda found: found.centroids(0),
    "seeds/1/centroids.npy": lambda found: found.centroids(1),
    "assignments.parquet": Clustering.assignments,
    "clusters.parquet": Clustering.clusters,
    "classes.parquet": Clustering.classes,
    "confusion.parquet": Clustering.confusion,
    "iterations.parquet": Clustering.iterations,
    "report/index.html": lambda found: found.check(found.layout.report_html),
    "report/contact-sheet.png": lambda found: found.check(found.layout.contact_sheet),
}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(GOLDEN, tmp_path / "store")
    return Store(tmp_path / "store")


def named(store: Store, which: str) -> set[str]:
    return {problem.file for problem in verify_any(store.layout, which).problems}


@pytest.mark.parametrize("which", [OLD, SEALED])
def test_golden_clusterings_are_read_and_verify(store: Store, which: str) -> None:
    report = verify_any(store.layout, which)
    assert (report.problems, report.kind, report.complete) == ([], "clustering", True)
    found = store.clustering(which)
    for read in READS.values():
        read(found)
    assert (found.k, found.scored, found.prices(), found.hierarchy()) == (2, [EMBEDDINGS], None, [])
    assert found.assignments().column("cluster").to_pylist() in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1])
    assert sorted(entry.id for entry in store.entries()) == [OLD, SEALED, EMBEDDINGS]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "lost"])
def test_any_damage_to_a_sealed_clustering_is_found_and_refused(store: Store, name: str, damage: str) -> None:
    path = store.layout.clustering(SEALED).folder / name
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "flipped":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x15]) + content[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(content[:middle])
    else:
        path.unlink()
    if (name, damage) == ("files.json", "lost"):  # then it is a clustering of an earlier version
        assert verify_any(store.layout, SEALED).ok
        return
    assert name in named(store, SEALED)
    with pytest.raises(StoreCorrupt, match=rf"clusterings/{SEALED}/{name} .*shoal verify {SEALED}"):
        READS.get(name, Clustering.metrics)(store.clustering(SEALED))


@pytest.mark.parametrize("name", [name for name in FILES if name != "files.json"])
@pytest.mark.parametrize(
    "content", [b"", b"x", b"7", b"[]", b"{}", b'"text"', b"\x93NUMPY\x01\x00\x05\x00{'de", b"PK\x03\x04"]
)
def test_nonsense_in_a_clustering_without_checksums_is_found(store: Store, name: str, content: bytes) -> None:
    (store.layout.clustering(OLD).folder / name).write_bytes(content)
    assert named(store, OLD) == {name}
    if name.endswith((".json", ".parquet", ".npy", ".npz")) and (name, content) != ("run.json", b"{}"):
        with pytest.raises(StoreCorrupt, match=name):
            READS[name](store.clustering(OLD))


def test_what_does_not_agree_with_the_spec_is_found_without_checksums(store: Store) -> None:
    folder = store.layout.clustering(OLD).folder
    table = pq.read_table(folder / "assignments.parquet")
    np.save(folder / "centroids.npy", np.zeros((3, 2), np.float32))
    pq.write_table(table.slice(1), folder / "assignments.parquet")
    pq.write_table(pq.read_table(folder / "clusters.parquet").slice(0, 1), folder / "clusters.parquet")
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "scored": {"another": {}}}))
    assert named(store, OLD) == {"centroids.npy", "assignments.parquet", "clusters.parquet", "metrics.json"}
    beyond = table.set_column(3, "cluster", pa.array([0, 1, 2, 0], pa.int32()))
    pq.write_table(beyond, folder / "assignments.parquet")
    assert "assignments.parquet" in named(store, OLD)


def test_a_file_that_was_not_published_is_found(store: Store) -> None:
    folder = store.layout.clustering(SEALED).folder
    shutil.copy(folder / "centroids.npy", folder / "prices.npy")
    assert named(store, SEALED) == {"prices.npy"}


def test_damaged_clusterings_are_listed_and_can_be_deleted(store: Store) -> None:
    (store.layout.clustering(OLD).folder / "spec.json").unlink()
    (store.layout.clustering(SEALED).folder / "spec.json").write_text("{")
    (store.layout.clusterings_folder / "c-empty").mkdir()
    ids = {OLD, SEALED, "c-empty"}
    assert set(store.clustering_ids()) == ids
    assert {entry.id for entry in store.entries() if isinstance(entry.error, StoreCorrupt)} == ids
    for each in ids:
        assert "spec.json" in named(store, each)
        store.delete_clustering(each)
        with pytest.raises(ClusteringNotFound):
            store.clustering(each)
    assert [entry.id for entry in store.entries()] == [EMBEDDINGS]


def make_sweep(store: Store) -> str:
    sweep = create_sweep(store.layout, "s-1", {"request": {"embeddings": EMBEDDINGS}, "points": 2})
    for index in range(2):
        sweep.commit_point(index, {"index": index, "request": {}, "params": {}, "scored": {}})
    sweep.write_plot("curve", "svg", lambda file: file.write(b"<svg></svg>"))
    sweep.write_plot("curve", "png", lambda file: file.write(b"\x89PNG\r\n\x1a\n"))
    sweep.finish({"seconds": 1.0})
    return sweep.id


@pytest.mark.parametrize(
    "name", ["spec.json", "points/00000.json", "points/00001.json", "done.json", "plots/curve.svg", "plots/curve.png"]
)
@pytest.mark.parametrize("content", [b"", b"x", b"7", b"[]", b"{"])
def test_nonsense_in_a_sweep_is_found(store: Store, name: str, content: bytes) -> None:
    which = make_sweep(store)
    assert verify_any(store.layout, which).problems == []
    (store.layout.sweep(which).folder / name).write_bytes(content)
    assert named(store, which) == {name}
    store.delete_sweep(which)
    assert store.sweep_ids() == []


def test_a_point_of_a_sweep_has_its_error_whole(store: Store) -> None:
    which = make_sweep(store)
    point = store.layout.sweep(which).point(1)
    document = {"index": 1, "request": {}, "params": {}, "scored": {}, "error": {"code": "x", "message": "One group."}}
    point.write_text(json.dumps(document))
    assert named(store, which) == set()
    for wrong in (None, "x", {"code": "x"}):
        point.write_text(json.dumps({**document, "error": wrong}))
        assert named(store, which) == {"points/00001.json"}


def test_a_sweep_that_lost_a_point_is_found_and_one_that_grows_is_not(store: Store) -> None:
    which = make_sweep(store)
    layout = store.layout.sweep(which)
    layout.point(1).unlink()
    assert named(store, which) == {"done.json"}
    layout.done.unlink()
    assert verify_any(store.layout, which).ok


def test_a_damaged_point_is_made_again(store: Store) -> None:
    sweep = store.sweep(make_sweep(store))
    sweep.layout.point(1).write_text('{"index": 1')
    with pytest.raises(StoreCorrupt, match=r"points/00001\.json"):
        sweep.points()
    assert sweep.drop_damaged_points(store.layout.trash) == [1]
    assert sweep.finished_points() == [0]
    assert sweep.commit_point(1, {"index": 1, "request": {}, "params": {}, "scored": {}})
    assert len(sweep.points()) == 2


def test_everything_is_verified_strays_too(store: Store) -> None:
    make_sweep(store)
    (store.layout.embeddings_folder / "empty-1").mkdir()
    (store.layout.embeddings_folder / "notes.txt").write_text("mine")
    found = {report.id: report for report in verify_all(store.layout)}
    assert set(found) == {"notes.txt", "empty-1", EMBEDDINGS, OLD, SEALED, "s-1"}
    assert {each for each, report in found.items() if not report.ok} == {"notes.txt", "empty-1"}
    assert [str(problem) for problem in found["empty-1"].problems] == ["plan.json: is missing"]


def test_an_id_of_nothing_is_named(store: Store) -> None:
    for each in ("nothing", "../embeddings", "c-0003"):
        with pytest.raises(NotFound, match=each):
            verify_any(store.layout, each)
