"""The map as arrays for a page that draws it: places, values, and what its points are."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from shoal.store import Store
from shoal.store.clustering import Clustering
from shoal.store.table_schemas import MAP_SCHEMA

Arrays = dict[str, NDArray[Any]]


def read(content: bytes) -> tuple[dict[str, Any], Arrays]:
    """Header and arrays, as the documentation of the format says."""
    length = int.from_bytes(content[:4], "little")
    header = json.loads(content[4 : 4 + length])
    at, arrays = 4 + length, {}
    assert at % 8 == 0
    for each in header["arrays"]:
        kind = np.dtype(each["dtype"]).newbyteorder("<")
        count = int(np.prod(each["shape"]))
        arrays[each["name"]] = np.frombuffer(content, kind, count, at).reshape(each["shape"])
        at += -(-count * kind.itemsize // 8) * 8
    assert at == len(content)
    return header, arrays


@pytest.fixture
def placed(clustering: Clustering, store: Store) -> Clustering:
    """The clustering with a map on which x is the row and y always 5; row 3 of the second set is not on it."""
    train, val = clustering.scored
    rows = [*range(240), *(row for row in range(40) if row != 3)]
    sets = [train] * 240 + [val] * 39
    table = {"embeddings": sets, "row": rows, "x": np.array(rows, np.float32), "y": np.full(len(rows), 5, np.float32)}
    pq.write_table(pa.table(table).cast(MAP_SCHEMA), clustering.layout.map)
    clustering.layout.files.unlink()  # It has the checksum of another map.
    return store.clustering(clustering.id)


def url(clustering: Clustering, what: str) -> str:
    return f"/clusterings/{clustering.id}/map/{what}"


def test_places_are_small_numbers_in_row_order(api: TestClient, placed: Clustering) -> None:
    answer = api.get(url(placed, "points"))
    assert answer.headers["Cache-Control"] == "private, no-cache"
    header, arrays = read(answer.content)
    assert (header["count"], header["x"], header["y"]) == (240, [0.0, 239.0], [5.0, 5.0])
    assert list(arrays) == ["points"]
    x, y = arrays["points"].T
    assert arrays["points"].dtype == np.uint16
    assert x.tolist() == np.rint(np.arange(240) * 65535 / 239).tolist()
    assert not y.any()
    assert len(answer.content) < 240 * 4 + 400


def test_rows_that_are_not_all_on_the_map_are_named(api: TestClient, placed: Clustering) -> None:
    val = placed.scored[1]
    _, arrays = read(api.get(url(placed, "points"), params={"embeddings": val}).content)
    assert arrays["rows"].tolist() == [row for row in range(40) if row != 3]
    _, found = read(api.get(url(placed, "values"), params={"embeddings": val, "by": "cluster"}).content)
    clusters = placed.assignments(val).column("cluster").to_numpy()
    assert found["values"].tolist() == np.delete(clusters, 3).tolist()


def test_values_are_places_in_a_legend_or_steps_of_a_range(api: TestClient, placed: Clustering) -> None:
    table = placed.assignments(placed.scored[0])
    header, arrays = read(api.get(url(placed, "values"), params={"by": "cluster"}).content)
    clusters = [header["legend"][value]["cluster"] for value in arrays["values"]]
    assert clusters == table.column("cluster").to_pylist()
    assert [each["count"] for each in header["legend"]] == np.bincount(clusters).tolist()
    assert {each["majority"] for each in header["legend"]} == set("abcd")
    header, arrays = read(api.get(url(placed, "values"), params={"by": "label"}).content)
    assert [header["legend"][value]["name"] for value in arrays["values"]] == ["a", "b", "c", "d"] * 60
    for by in ("distance", "margin"):
        header, arrays = read(api.get(url(placed, "values"), params={"by": by}).content)
        low, high = header["range"]
        real = np.minimum(table.column(by).to_numpy(), high)
        assert arrays["values"].dtype == np.uint8
        assert arrays["values"].max() == 254
        assert np.abs(low + arrays["values"] / 254 * (high - low) - real).max() < (high - low) / 500


def test_values_follow_names_merges_moves_and_flags(api: TestClient, placed: Clustering) -> None:
    base = f"/clusterings/{placed.id}"
    before = api.get(url(placed, "values"), params={"by": "cluster"})
    known = {"If-None-Match": before.headers["ETag"]}
    assert api.get(url(placed, "values"), params={"by": "cluster"}, headers=known).status_code == 304
    assert api.get(url(placed, "values"), params={"by": "flag"}, headers=known).status_code == 200
    etag = api.get(f"{base}/names").headers["ETag"]
    change = {"0": {"name": "<b>", "flag": "review"}, "1": {"merged_into": 0}}
    moved = api.patch(f"{base}/names", json=change, headers={"If-Match": etag})
    first = read(before.content)[1]["values"].tolist().index(2)
    api.patch(f"{base}/moves", json={str(first): 3}, headers={"If-Match": moved.headers["ETag"]})
    answer = api.get(url(placed, "values"), params={"by": "cluster"}, headers=known)
    header, arrays = read(answer.content)
    assert [each["cluster"] for each in header["legend"]] == [0, 2, 3]
    assert header["legend"][0]["name"] == "<b>"
    assert header["legend"][arrays["values"][first]]["cluster"] == 3
    header, arrays = read(api.get(url(placed, "values"), params={"by": "flag"}).content)
    clusters = placed.assignments(placed.scored[0]).column("cluster").to_numpy()
    assert header["legend"] == [{"name": "review", "count": int((clusters < 2).sum())}]
    assert (arrays["values"] == 0).tolist() == (clusters < 2).tolist()
    assert header["none"] == (clusters >= 2).sum()


def test_arrays_are_sent_again_when_what_they_are_of_was_made_again(
    api: TestClient, placed: Clustering, store: Store
) -> None:
    asked = {"points": {}, "values": {"by": "cluster"}}
    first = {what: api.get(url(placed, what), params=query) for what, query in asked.items()}
    known = {what: {"If-None-Match": answer.headers["ETag"]} for what, answer in first.items()}
    for what, query in asked.items():
        answer = api.get(url(placed, what), params=query, headers=known[what])
        assert (answer.status_code, answer.content) == (304, b"")
    # A clustering that was deleted and made again has the same id.
    path = placed.layout.map
    shutil.copy(path, path.with_name("again"))
    path.with_name("again").replace(path)
    for what, query in asked.items():
        assert api.get(url(placed, what), params=query, headers=known[what]).status_code == 200
    labels = api.get(url(placed, "values"), params={"by": "label"}).headers["ETag"]
    store.delete_embeddings(placed.scored[0])
    again = api.get(url(placed, "values"), params={"by": "label"}, headers={"If-None-Match": labels})
    assert again.status_code == 200


def test_labels_are_none_where_the_embeddings_are_gone(api: TestClient, placed: Clustering, store: Store) -> None:
    store.delete_embeddings(placed.scored[0])
    header, arrays = read(api.get(url(placed, "values"), params={"by": "label"}).content)
    assert (header["legend"], header["none"], len(arrays["values"])) == ([], 240, 240)
    (row,) = api.get(url(placed, "rows"), params={"rows": "3"}).json()["rows"]
    assert (row["row"], row["image_path"], row["label"]) == (3, None, None)


def test_rows_are_described(api: TestClient, placed: Clustering) -> None:
    found = api.get(url(placed, "rows"), params={"rows": "230,3,3,99999999999"}).json()["rows"]
    assert [each["row"] for each in found] == [3, 230]
    assert found[1]["image_path"] == "train/00230.png"
    assert found[1]["label"] == "c"
    row = placed.assignments(placed.scored[0]).slice(230, 1).to_pylist()[0]
    assert {name: found[1][name] for name in ("cluster", "distance", "margin")} == {
        name: row[name] for name in ("cluster", "distance", "margin")
    }
    many = ",".join(map(str, range(257)))
    assert api.get(url(placed, "rows"), params={"rows": many}).status_code == 422
    assert api.get(url(placed, "rows"), params={"rows": "1,x"}).status_code == 422


def test_a_clustering_without_a_map_says_so(api: TestClient, placed: Clustering) -> None:
    placed.layout.map.unlink()
    answer = api.get(url(placed, "points"))
    assert answer.status_code in {404, 500}
    assert "map" in answer.json()["detail"]
