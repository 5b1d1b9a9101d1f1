"""`GET /clusterings/{id}/map`, and what is stored behind it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from clusterer import pipeline
from fastapi.testclient import TestClient
from shoal.errors import MapNotFound
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.verify_results import verify_clustering
from sklearn.neighbors import NearestNeighbors

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


def places_of(table: pa.Table) -> Any:
    return np.stack([table.column(name).to_numpy() for name in ("x", "y")], axis=1)


def test_the_map_is_sent_in_every_format(api: TestClient, clustering: Clustering) -> None:
    route = f"/clusterings/{clustering.id}/map"
    assert api.get(f"/clusterings/{clustering.id}").json()["links"]["map"] == route
    val = clustering.scored[1]
    answer = api.get(route, params={"embeddings": val})
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = ipc.open_stream(answer.content).read_all()
    assert table.column_names == ["row", "x", "y", "cluster"]
    assert table.drop_columns("cluster").equals(clustering.map(val).select(["row", "x", "y"]).combine_chunks())
    assert table.column("cluster").equals(clustering.assignments(val).column("cluster"))
    sent = {each: api.get(route, params={"embeddings": val, "format": each}).content for each in ("parquet", "csv")}
    assert pq.read_table(io.BytesIO(sent["parquet"])).equals(table)
    assert csv.read_csv(io.BytesIO(sent["csv"])).column("cluster").to_pylist() == table.column("cluster").to_pylist()
    lines = api.get(route, params={"embeddings": val, "format": "jsonl"}).text.splitlines()
    assert [json.loads(line) for line in lines] == table.to_pylist()
    assert ipc.open_stream(api.get(route).content).read_all().num_rows == 240


def test_what_is_not_there_is_not_found(api: TestClient, clustering: Clustering) -> None:
    for path, code in (
        ("/clusterings/c-no/map", "clustering_not_found"),
        (f"/clusterings/{clustering.id}/map?embeddings=other", "not_found"),
    ):
        answer = api.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, code)


def test_a_clustering_of_an_earlier_version_is_read_without_its_map(
    api: TestClient, clustering: Clustering, store: Store
) -> None:
    clustering.layout.map.unlink()
    clustering.layout.files.unlink()
    older = store.clustering(clustering.id)
    assert not older.has_map
    with pytest.raises(MapNotFound, match="Cluster the same embeddings again"):
        older.map()
    answer = api.get(f"/clusterings/{older.id}/map")
    assert (answer.status_code, answer.json()["code"]) == (404, "map_not_found")
    shown = api.get(f"/clusterings/{older.id}")
    assert shown.status_code == 200
    assert "map" not in shown.json()["links"]
    assert verify_clustering(older.layout).problems == []


def test_damage_of_the_map_is_found(clustering: Clustering, store: Store) -> None:
    table = pq.read_table(clustering.layout.map)
    clustering.layout.files.unlink()
    bad = table.set_column(2, "x", pa.array(np.full(table.num_rows, np.nan, np.float32)))
    for damaged, problem in ((table.slice(1), "rows of assignments"), (bad, "NaN")):
        pq.write_table(damaged, clustering.layout.map)
        [found] = verify_clustering(clustering.layout).problems
        assert found.file == "map.parquet"
        assert problem in found.problem


def test_a_map_that_is_gone_is_damage(api: TestClient, clustering: Clustering) -> None:
    clustering.layout.map.unlink()
    assert [each.file for each in verify_clustering(clustering.layout).problems] == ["map.parquet"]
    assert api.get(f"/clusterings/{clustering.id}/map").json()["code"] == "store_corrupt"


def test_scored_rows_lie_near_the_train_rows_that_they_resemble(clustering: Clustering) -> None:
    train, val = clustering.scored
    places, clusters = places_of(clustering.map(train)), clustering.assignments(train).column("cluster").to_numpy()
    near = NearestNeighbors(n_neighbors=5).fit(places)
    for each in (train, val):
        found = near.kneighbors(places_of(clustering.map(each)), return_distance=False)
        own = clustering.assignments(each).column("cluster").to_numpy()
        assert np.mean(clusters[found] == own[:, None]) > 0.97


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_rows_have_a_map(make_set: MakeSet, run_job: RunJob, n: int) -> None:
    found = run_job(make_set("few", np.eye(n, 4, dtype=np.float32), ["a"] * n), clusters=2)
    assert np.isfinite(places_of(found.map())).all()
    assert found.map().column("row").to_pylist() == list(range(n))


def test_a_set_is_placed_by_landmarks_of_another(
    planted: Planted, make_set: MakeSet, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "most_landmarks", lambda *_: 60)
    vectors, labels = planted(400)
    train, val = make_set("train", vectors, labels), make_set("val", *planted(100, seed=5))
    found = run_job({"train": train, "score": [val]}, clusters=4, seed=0)
    assert found.map().num_rows == 100
    both = run_job({"train": train, "score": [val, train]}, clusters=4, seed=0)
    assert found.map().equals(both.map(val))
    places = places_of(both.map(train))
    near = NearestNeighbors(n_neighbors=5).fit(places).kneighbors(return_distance=False)
    assert np.mean(np.array(labels)[near] == np.array(labels)[:, None]) > 0.97


def test_chosen_rows_keep_their_numbers(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = planted()
    found = run_job(make_set("mine", vectors, labels), clusters=2, where={"labels": ["b", "d"]})
    assert found.map().column("row").to_pylist() == [row for row in range(240) if row % 2]
    assert verify_clustering(found.layout).problems == []
