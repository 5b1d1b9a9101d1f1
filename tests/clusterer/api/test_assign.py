"""`POST /clusterings/{id}/assign` with vectors: what it takes, what it answers, and that the answers are the job's."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
NPY, ARROW, JSON = "application/x-npy", "application/vnd.apache.arrow.stream", "application/json"
FIELDS = ["cluster", "distance", "margin", "is_outlier", "label", "merged_cluster", "name", "probability"]


def npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def arrow(table: pa.Table | None = None, *, batch: int = 7, **columns: Any) -> bytes:
    table = pa.table(columns) if table is None else table
    sink = io.BytesIO()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return sink.getvalue()


def lists(vectors: Any) -> pa.Array:
    return pa.array(list(vectors), pa.list_(pa.from_numpy_dtype(vectors.dtype)))


def send(api: TestClient, clustering: Clustering, body: bytes, kind: str, **more: Any) -> Response:
    headers = {"content-type": kind, **more.pop("headers", {})}
    return api.post(f"/clusterings/{clustering.id}/assign", content=body, headers=headers, **more)


def rows_of(answer: Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == ARROW:
        found: list[dict[str, Any]] = ipc.open_stream(answer.content).read_all().to_pylist()
        return found
    assert answer.headers["content-type"] == JSON
    parsed: list[dict[str, Any]] = answer.json()
    return parsed


def code_of(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pca": {"pca": {"components": 6}},
    "whitened": {"pca": {"components": 5, "whiten": True}, "normalize": False},
    "spherical": {"pca": {"components": 6}, "kmeans": {"spherical": True}},
    "balanced": {"kmeans": {"balanced": 1.1}},
    "faiss": {"kmeans": {"engine": "faiss"}},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dim", [16, 200])
def test_the_rows_of_a_job_get_the_bits_that_the_job_gave_them(
    api: TestClient, make_set: MakeSet, run_job: RunJob, store: Store, kind: str, dim: int
) -> None:
    rng = np.random.default_rng(dim)
    vectors = (rng.normal(size=(9, dim))[rng.integers(0, 9, 700)] + rng.normal(size=(700, dim))).astype(np.float32)
    found = run_job(make_set("mine", vectors), clusters=8, seed=0, **KINDS[kind])
    stored = store.embeddings(found.scored[0]).take(np.arange(700))
    job = found.assignments().select(FIELDS[:3])
    whole = ipc.open_stream(send(api, found, npy(stored), NPY).content).read_all()
    assert whole.select(FIELDS[:3]).to_pydict() == job.to_pydict()
    # A row's answer does not depend on the rows beside it, nor on how it is sent.
    for first, stop in ((0, 1), (7, 8), (3, 68), (600, 700)):
        part = job.slice(first, stop - first).to_pylist()
        rows = stored[first:stop]
        for answer in (
            send(api, found, npy(rows), NPY),
            send(api, found, arrow(embedding=lists(rows)), ARROW),
            api.post(f"/clusterings/{found.id}/assign", json={"embeddings": rows.tolist()}),
        ):
            assert [{name: row[name] for name in FIELDS[:3]} for row in rows_of(answer)] == part


def test_every_row_is_answered_with_all_fields(api: TestClient, clustering: Clustering, planted: Planted) -> None:
    vectors, _ = planted(spread=0.8)
    answer = api.post(f"/clusterings/{clustering.id}/assign", json={"embeddings": vectors.tolist()})
    expected = clustering.assignments(clustering.scored[0]).to_pylist()
    names = clustering.clusters().column("label").to_pylist()
    for found, row in zip(rows_of(answer), expected, strict=True):
        assert list(found) == FIELDS
        assert found == {
            **{name: row[name] for name in FIELDS[:3]},
            "is_outlier": found["is_outlier"],
            "label": names[row["cluster"]],
            "merged_cluster": row["cluster"],
            "probability": None,
            "name": None,
        }


def test_a_cluster_without_a_label_is_answered_with_null(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, _ = planted(60)
    found = run_job(make_set("unlabelled", vectors), clusters=3, seed=0)
    assert {row["label"] for row in rows_of(send(api, found, npy(vectors), NPY))} == {None}


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_kind_of_array_means_its_values(
    api: TestClient, clustering: Clustering, planted: Planted, dtype: str, order: Any
) -> None:
    vectors = planted(50)[0].astype(np.float16)
    expected = rows_of(send(api, clustering, npy(vectors.astype(np.float32)), NPY))
    assert rows_of(send(api, clustering, npy(np.asarray(vectors.astype(dtype), order=order)), NPY)) == expected


@pytest.mark.parametrize("value", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("shape", [pa.list_, pa.large_list, lambda value: pa.list_(value, 16)])
@pytest.mark.parametrize("name", ["embedding", "anything"])
def test_every_kind_of_column_means_its_values(
    api: TestClient, clustering: Clustering, planted: Planted, value: Any, shape: Any, name: str
) -> None:
    vectors = planted(50)[0].astype(np.float16)
    expected = rows_of(send(api, clustering, npy(vectors), NPY))
    column = pa.array([list(row) for row in vectors.astype(value.to_pandas_dtype())], shape(value))
    assert rows_of(send(api, clustering, arrow(pa.table({name: column})), ARROW)) == expected


def test_ids_come_back_with_their_rows(api: TestClient, clustering: Clustering, planted: Planted) -> None:
    vectors, _ = planted(50)
    expected = rows_of(send(api, clustering, npy(vectors), NPY))
    for ids in (pa.array([f"image {row}" for row in range(49)] + [None]), pa.array(range(50), pa.uint8())):
        answer = send(api, clustering, arrow(id=ids, embedding=lists(vectors)), ARROW)
        table = ipc.open_stream(answer.content).read_all()
        assert table.column_names == ["id", *FIELDS]
        assert table.schema.field("id").type == ids.type
        assert table.to_pylist() == [{"id": ids[row].as_py(), **expected[row]} for row in range(50)]
        as_json = send(api, clustering, arrow(id=ids, embedding=lists(vectors)), ARROW, headers={"accept": JSON})
        assert as_json.json() == table.to_pylist()


@pytest.mark.parametrize(
    ("sent", "accept", "answered"),
    [
        (JSON, "*/*", JSON),
        (JSON, ARROW, ARROW),
        (JSON, f"{JSON};q=0.5, {ARROW}", ARROW),
        (JSON, f"{ARROW};q=0.1, {JSON};q=0.9", JSON),
        (JSON, f"{ARROW};q=none", JSON),
        (NPY, "*/*", ARROW),
        (NPY, JSON.upper(), JSON),
        (NPY, f"{JSON}; q=0", ARROW),
        (NPY, "text/html, */*", ARROW),
        (NPY, f"{JSON}, {ARROW}", ARROW),
    ],
)
def test_accept_chooses_the_form_of_the_answer(
    api: TestClient, clustering: Clustering, planted: Planted, sent: str, accept: str, answered: str
) -> None:
    vectors, _ = planted(3)
    body = npy(vectors) if sent == NPY else json.dumps({"embeddings": vectors.tolist()}).encode()
    answer = send(api, clustering, body, sent, headers={"accept": accept})
    assert answer.headers["content-type"] == answered
    assert [row["cluster"] for row in rows_of(answer)] == [
        row["cluster"] for row in rows_of(send(api, clustering, npy(vectors), NPY))
    ]


def test_many_rows_are_answered_in_parts(api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = planted(20_000)
    found = run_job(make_set("large", vectors, labels, shard_rows=20_000), clusters=4, seed=0)
    expected = found.assignments().select(FIELDS[:3]).to_pydict()
    answer = send(api, found, npy(vectors), NPY)
    assert "content-length" not in answer.headers, "it is sent as it is computed"
    table = ipc.open_stream(answer.content).read_all()
    assert table.select(FIELDS[:3]).to_pydict() == expected
    assert send(api, found, npy(vectors), NPY, headers={"accept": JSON}).json() == table.to_pylist()
    # A fault in the last part is known before the first is sent.
    vectors[-1, 3] = np.nan
    answer = send(api, found, npy(vectors), NPY)
    assert code_of(answer) == (422, "not_finite")
    assert answer.json()["row"] == 19_999


def test_new_rows_that_do_not_fit_are_named(api: TestClient, clustering: Clustering) -> None:
    url = f"/clusterings/{clustering.id}/assign"
    good = [0.5] * 16
    answer = api.post(url, json={"embeddings": [good, good[:3]]})
    assert code_of(answer) == (422, "dimension_mismatch")
    assert answer.json()["row"] == 1
    document = json.dumps({"embeddings": [good, good, [*good[:15], float("nan")]]})
    answer = api.post(url, content=document, headers={"content-type": JSON})
    assert code_of(answer) == (422, "not_finite")
    assert answer.json()["errors"][0]["field"] == "embeddings.2.15"
    answer = api.post(url, json={"embeddings": [[1e300] * 16]})
    assert code_of(answer) == (422, "not_finite")
    assert answer.json()["row"] == 0
    assert code_of(api.post(url, json={})) == (422, "invalid_value")
    assert code_of(api.post(url, json={"embeddings": [good], "images": ["x"]})) == (422, "invalid_value")
    assert code_of(api.post(url)) == (422, "missing_field")
    assert code_of(api.post(url, content=b"{", headers={"content-type": JSON})) == (422, "invalid_json")


@pytest.mark.parametrize("kind", [{}, {"normalize": False}, {"pca": {"components": 3}}])
def test_values_near_the_largest_float_are_no_error(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob, kind: dict[str, Any]
) -> None:
    found = run_job(make_set("mine", planted()[0]), clusters=3, seed=0, **kind)
    body = npy(np.full((2, 16), [[3e38], [-3e38]], np.float32))
    assert len(rows_of(send(api, found, body, NPY, headers={"accept": JSON}))) == 2


def test_a_row_whose_projection_is_not_finite_is_named(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, _ = planted()
    options: dict[str, Any] = {"normalize": False, "pca": {"components": 3, "whiten": True}}
    found = run_job(make_set("mine", 1e-3 * vectors), clusters=3, seed=0, **options)
    largest = np.full(16, 3e38, np.float32)
    for row in (largest, largest * np.where(np.arange(16) % 2, 1, -1).astype(np.float32)):
        # In the last of many parts, it is known before the first is sent.
        for first in (1, 20_000):
            answer = send(api, found, npy(np.stack([*[vectors[0]] * first, row])), NPY)
            assert code_of(answer) == (422, "not_finite")
            assert answer.json()["row"] == first


@pytest.mark.parametrize("kind", ["text/csv", "application/octet-stream", "application/vnd.apache.parquet", ""])
def test_another_kind_of_body_is_refused_with_those_that_are_taken(
    api: TestClient, clustering: Clustering, planted: Planted, kind: str
) -> None:
    answer = send(api, clustering, npy(planted(2)[0]), kind)
    assert code_of(answer) == (415, "unsupported_media_type")
    assert answer.json()["accepted"] == [JSON, NPY, ARROW]


def test_a_row_is_an_outlier_beyond_the_quantile_of_the_train_rows(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, _ = planted(200, spread=0.8)
    # The other set is far away: its distances do not count.
    found = run_job(
        {"train": (train := make_set("train", vectors)), "score": [make_set("far", 9 + planted(90)[0]), train]},
        clusters=4,
        seed=0,
    )
    distances = np.sort(found.assignments(train).column("distance").to_numpy())
    url = f"/clusterings/{found.id}/assign"
    for quantile, beyond in ((None, 2), (0.99, 2), (0.9, 20), (0.5, 100), (0.001, 199)):
        given = {} if quantile is None else {"outlier_quantile": quantile}
        by_query = rows_of(send(api, found, npy(vectors), NPY, params=given))
        assert by_query == rows_of(api.post(url, json={"embeddings": vectors.tolist(), **given}))
        limit = np.quantile(distances, quantile or 0.99, method="inverted_cdf")
        assert [row["is_outlier"] for row in by_query] == [row["distance"] > limit for row in by_query]
        assert sum(row["is_outlier"] for row in by_query) == beyond
    assert rows_of(send(api, found, npy(vectors[:1] + 5), NPY))[0]["is_outlier"] is True


@pytest.mark.parametrize("quantile", [0, 1, -1, 2, "nan", "inf", "x"])
def test_a_quantile_is_between_0_and_1(
    api: TestClient, clustering: Clustering, planted: Planted, quantile: Any
) -> None:
    vectors = planted(2)[0]
    url = f"/clusterings/{clustering.id}/assign"
    answer = send(api, clustering, npy(vectors), NPY, params={"outlier_quantile": quantile})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "outlier_quantile"
    answer = api.post(url, json={"embeddings": vectors.tolist(), "outlier_quantile": quantile})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "outlier_quantile"


def test_a_quantile_is_sent_once(api: TestClient, clustering: Clustering) -> None:
    body = {"embeddings": [[0.0] * 16], "outlier_quantile": 0.5}
    answer = api.post(f"/clusterings/{clustering.id}/assign", json=body, params={"outlier_quantile": 0.5})
    assert code_of(answer) == (422, "invalid_request")
    assert answer.json()["field"] == "outlier_quantile"


def test_without_the_train_sets_distances_nobody_knows_the_outliers(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    vectors, _ = planted(60)
    found = run_job({"train": make_set("a", vectors), "score": [make_set("b", vectors + 1)]}, clusters=3, seed=0)
    assert {row["is_outlier"] for row in rows_of(send(api, found, npy(vectors), NPY))} == {None}


def test_a_deleted_clustering_is_not_found_at_once(api: TestClient, clustering: Clustering, planted: Planted) -> None:
    body = npy(planted(2)[0])
    assert send(api, clustering, body, NPY).status_code == 200
    assert api.delete(f"/clusterings/{clustering.id}").status_code == 204
    assert code_of(send(api, clustering, body, NPY)) == (404, "clustering_not_found")
    assert code_of(send(api, clustering, npy(np.zeros((1, 3))), NPY)) == (404, "clustering_not_found")


def test_one_that_is_made_again_is_read_again(
    api: TestClient, clustering: Clustering, planted: Planted, store: Store
) -> None:
    vectors, _ = planted(spread=0.8)
    before = rows_of(send(api, clustering, npy(vectors), NPY))
    folder, copy = clustering.layout.folder, store.root / "copy"
    shutil.copytree(folder, copy)
    assert api.delete(f"/clusterings/{clustering.id}").status_code == 204
    np.save(copy / "centroids.npy", np.load(copy / "centroids.npy")[::-1])
    (copy / "files.json").unlink()  # as of an older version: its files have no checksums
    copy.rename(folder)
    after = rows_of(send(api, clustering, npy(vectors), NPY))
    assert [row["cluster"] for row in after] == [3 - row["cluster"] for row in before]


def test_the_document_names_every_kind_of_body_and_answer(api: TestClient) -> None:
    app: Any = api.app
    assert isinstance(app, FastAPI)
    operation = app.openapi()["paths"]["/clusterings/{clustering_id}/assign"]["post"]
    assert set(operation["requestBody"]["content"]) == {JSON, NPY, ARROW}
    assert set(operation["responses"]["200"]["content"]) == {JSON, ARROW}
    assert {"404", "409", "415", "422", "503"} <= set(operation["responses"])
