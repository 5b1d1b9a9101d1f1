"""The clusterer's REST API, on a real queue and a real store."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from csv import DictReader
from pathlib import Path
from typing import Any

import pyarrow.csv as csv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from clusterer.api.clusterings import build
from clusterer.kmeans import select_engine
from fastapi.testclient import TestClient
from httpx2 import Response
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


def code_of(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def test_a_request_becomes_a_job(api: TestClient, queue: JobQueue, planted: Planted, make_set: MakeSet) -> None:
    body = {"embeddings": make_set("mine", *planted()), "over": 1}
    answer = api.post("/cluster", json=body, headers={"Idempotency-Key": "once"})
    assert answer.status_code == 202
    job = answer.json()
    assert (job["kind"], job["state"], job["request"]) == ("cluster", "queued", body)
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert api.post("/cluster", json=body, headers={"Idempotency-Key": "once"}).json()["id"] == job["id"]
    claim = queue.claim(["cluster"], "worker")
    assert claim is not None
    assert claim.job.id == job["id"]


@pytest.mark.parametrize(("route", "more"), [("/cluster", {"clusters": 2}), ("/sweep", {"clusters": [2, 3]})])
def test_a_repeated_request_gets_its_job_though_its_embeddings_are_gone(
    api: TestClient,
    queue: JobQueue,
    store: Store,
    planted: Planted,
    make_set: MakeSet,
    route: str,
    more: dict[str, Any],
) -> None:
    body = {"embeddings": make_set("mine", *planted()), **more}
    job = api.post(route, json=body, headers={"Idempotency-Key": "once"}).json()["id"]
    queue.cancel(job)
    store.delete_embeddings(body["embeddings"])
    again = api.post(route, json=body, headers={"Idempotency-Key": "once"})
    assert (again.status_code, again.json()["id"]) == (202, job)
    assert code_of(api.post(route, json=body)) == (404, "embeddings_not_found")


@pytest.mark.timeout(60)
def test_a_pipe_in_place_of_a_class_map_blocks_no_request(
    queue: JobQueue, store: Store, settings: Settings, planted: Planted, make_set: MakeSet, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    os.mkfifo(tmp_path / "data" / "map.csv")
    scored = {"embeddings": make_set("val", *planted(40)), "class_map": {"file": "map.csv"}}
    body = {"embeddings": {"train": make_set("train", *planted()), "score": [scored]}, "clusters": 4}
    with TestClient(build(settings.model_copy(update={"data": tmp_path / "data"}), queue, store)) as api:
        for _ in range(3):
            answer = api.post("/cluster", json=body)
            assert code_of(answer) == (422, "labels_invalid")
            assert "named pipe" in answer.json()["detail"]
        assert api.get("/healthz").status_code == 200


def test_requests_that_cannot_work_are_refused_at_once(
    api: TestClient, queue: JobQueue, planted: Planted, make_set: MakeSet
) -> None:
    vectors, labels = planted()
    mine, bare = make_set("mine", vectors, labels), make_set("bare", vectors)
    half, thin = make_set("half", vectors, finish=False), make_set("thin", vectors[:, :3])
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"embeddings": "nothing-1", "clusters": 3}, 404, "embeddings_not_found"),
        ({"embeddings": half, "clusters": 3}, 409, "embeddings_incomplete"),
        ({"embeddings": bare, "over": 1.5}, 422, "labels_required"),
        ({"embeddings": mine, "clusters": 241}, 422, "clusters_invalid"),
        ({"embeddings": mine, "over": 0.1}, 422, "clusters_invalid"),
        ({"embeddings": mine, "clusters": 1}, 422, "out_of_range"),
        ({"embeddings": {"train": mine, "score": [thin]}, "clusters": 3}, 422, "dimension_mismatch"),
        ({"embeddings": mine, "clusters": 3, "pca": {"components": 17}}, 422, "invalid_request"),
        ({"embeddings": mine, "clusters": 3, "over": 1.0}, 422, "invalid_value"),
        ({"embeddings": mine, "clusters": 3, "colour": "red"}, 422, "unknown_field"),
        ({"embeddings": "../../etc", "clusters": 3}, 422, "invalid_value"),
    ]
    for body, status, code in cases:
        assert code_of(api.post("/cluster", json=body)) == (status, code), body
    assert queue.list().jobs == []


@pytest.mark.parametrize(
    "options",
    [
        {"spherical": True},
        {"balanced": 1.2},
        {"spherical": True, "balanced": 1.2, "levels": [4, 2]},
        {"algorithm": "mini-batch", "iterations": 5, "levels": [3]},
        {"engine": "faiss-super", "balanced": 1.2},
        {"spherical": True, "max_points_per_centroid": 10},
    ],
)
def test_every_kind_of_k_means_can_be_asked_for(
    api: TestClient, queue: JobQueue, planted: Planted, make_set: MakeSet, options: dict[str, Any]
) -> None:
    body = {"embeddings": make_set("mine", *planted()), "clusters": 8, "kmeans": options}
    answer = api.post("/cluster", json=body)
    assert answer.status_code == 202, answer.json()
    assert queue.get(answer.json()["id"]).request == body


def test_one_clustering_may_leave_the_reduction_open_and_a_sweep_may_not(
    api: TestClient, queue: JobQueue, planted: Planted, make_set: MakeSet
) -> None:
    body = {"embeddings": make_set("mine", *planted()), "clusters": "auto", "reduce": "auto"}
    answer = api.post("/cluster", json=body)
    assert answer.status_code == 202, answer.json()
    assert queue.get(answer.json()["id"]).request == body
    assert code_of(api.post("/sweep", json={**body, "clusters": 3})) == (422, "invalid_value")
    schema = api.get("/openapi.json").json()["components"]["schemas"]["ClusterRequest"]["properties"]["reduce"]
    assert {"const": "auto", "type": "string"} in schema["anyOf"]


@pytest.mark.parametrize(
    ("options", "more", "named"),
    [
        ({"algorithm": "mini-batch", "spherical": True}, {}, "spherical"),
        ({"algorithm": "mini-batch", "balanced": 1.2}, {}, "balanced"),
        ({"balanced": 1.2, "max_points_per_centroid": 9}, {}, "max_points_per_centroid"),
        ({"balanced": 1.0}, {}, "kmeans.balanced"),
        ({"balanced": True}, {}, "kmeans.balanced"),
        ({"spherical": 1}, {}, "kmeans.spherical"),
        ({"algorithm": "minibatch"}, {}, "kmeans.algorithm"),
        ({"engine": "super"}, {}, "kmeans.engine"),
        ({"levels": []}, {}, "kmeans.levels"),
        ({"levels": [4, 1]}, {}, "kmeans.levels.1"),
        ({"levels": [2, 4]}, {}, "levels"),
        ({"levels": [8]}, {}, "kmeans.levels"),
        ({"levels": [4]}, {"clusters": "auto"}, "kmeans.levels"),
    ],
)
def test_options_of_k_means_that_make_no_sense_are_refused_by_name(
    api: TestClient,
    queue: JobQueue,
    planted: Planted,
    make_set: MakeSet,
    options: dict[str, Any],
    more: dict[str, Any],
    named: str,
) -> None:
    body = {"embeddings": make_set("mine", *planted()), "clusters": 8, "kmeans": options, **more}
    answer = api.post("/cluster", json=body)
    assert code_of(answer)[0] == 422
    problem = answer.json()
    fields = [each["field"] for each in problem.get("errors", [problem])]
    assert named in fields or f"`{named}`" in problem["detail"], problem
    assert queue.list().jobs == []


def test_a_clusterings_facts_metrics_and_clusters_can_be_read(api: TestClient, clustering: Clustering) -> None:
    base = f"/clusterings/{clustering.id}"
    facts = api.get(base).json()
    assert (facts["n"], facts["dim"], facts["k"], facts["seeds"]) == (240, 16, 4, [0])
    assert facts["engine"] == select_engine("auto").name
    assert facts["metrics"]["ari"] == api.get(f"{base}/metrics").json()["scored"][facts["train"]]["mean"]["ari"]
    assert facts["spec"]["clusters"] == 4
    assert all(api.get(link).status_code == 200 for link in facts["links"].values())
    assert [each["id"] for each in api.get("/clusterings").json()["clusterings"]] == [clustering.id]
    assert "text/html" in api.get(f"{base}/report").headers["content-type"]
    assert api.get(f"{base}/contact-sheet").content.startswith(b"\x89PNG")


@pytest.mark.parametrize(("sort", "sign"), [("size", -1), ("purity", -1), ("tightness", 1)])
def test_clusters_are_listed_in_the_order_asked_for(
    api: TestClient, clustering: Clustering, sort: str, sign: int
) -> None:
    answer = api.get(f"/clusterings/{clustering.id}/clusters", params={"sort": sort, "limit": 3}).json()
    values = [sign * each[sort] for each in answer["clusters"]]
    assert answer["total"] == 4
    assert len(values) == 3
    assert values == sorted(values)


def test_one_cluster_shows_its_members(api: TestClient, clustering: Clustering) -> None:
    url = f"/clusterings/{clustering.id}/clusters/2"
    found = api.get(url, params={"thumbnails": True}).json()
    distances = [each["distance"] for each in found["nearest"]]
    assert distances == sorted(distances)
    assert found["farthest"][0]["distance"] >= distances[-1]
    first = found["nearest"][0]
    assert first["image_path"] == f"train/{first['row']:05d}.png"
    assert first["thumbnail"].startswith("data:image/webp;base64,")
    assert first["label"] == found["majority"]
    other = api.get(url, params={"embeddings": clustering.scored[1]}).json()
    assert other["nearest"][0]["image_path"].startswith("val/")
    assert "thumbnail" not in other["nearest"][0]


def test_members_outlive_the_embeddings_without_their_paths(
    api: TestClient, store: Store, clustering: Clustering
) -> None:
    store.delete_embeddings(clustering.scored[0])
    member = api.get(f"/clusterings/{clustering.id}/clusters/0").json()["nearest"][0]
    assert member["image_path"] is None
    assert len(member["image_id"]) == 16


def test_assignments_are_the_same_in_every_format(api: TestClient, clustering: Clustering) -> None:
    url = f"/clusterings/{clustering.id}/assignments"
    parquet, text, lines = (api.get(url, params={"format": each}).content for each in ("parquet", "csv", "jsonl"))
    table = pq.read_table(io.BytesIO(parquet))
    assert table.num_rows == 280
    rows = [json.loads(line) for line in lines.decode().splitlines()]
    assert rows == table.to_pylist()
    read = csv.read_csv(io.BytesIO(text))
    assert read.column_names == table.column_names
    assert read.column("cluster").to_pylist() == table.column("cluster").to_pylist()
    assert {row["embeddings"] for row in rows} == set(clustering.scored)
    arrow = ipc.open_stream(api.get(url, params={"format": "arrow"}).content).read_all()
    assert arrow.to_pylist() == rows
    assert read.column("image_path").to_pylist() == [row["image_path"] for row in rows]


def test_assignments_say_which_image_each_row_is(api: TestClient, store: Store, clustering: Clustering) -> None:
    url = f"/clusterings/{clustering.id}/assignments"
    table = pq.read_table(io.BytesIO(api.get(url).content))
    # What lies on the disk keeps its columns; they come first.
    named = ["merged_cluster", "name", "flag"]
    assert table.column_names == [*clustering.assignments().column_names, "image_path", "label", *named]
    for embeddings_id in clustering.scored:
        known = store.embeddings(embeddings_id).metadata(["image_path", "label"]).to_pylist()
        found = [row for row in table.to_pylist() if row["embeddings"] == embeddings_id]
        assert [(row["row"], row["image_path"], row["label"]) for row in found] == [
            (row["row"], row["image_path"], row["label"]) for row in known
        ]


def test_assignments_outlive_the_embeddings_without_their_paths(
    api: TestClient, store: Store, clustering: Clustering, make_set: MakeSet, planted: Planted
) -> None:
    url = f"/clusterings/{clustering.id}/assignments"
    assert "shoal-deleted-embeddings" not in api.get(url).headers
    train, val = clustering.scored
    store.delete_embeddings(val)
    answer = api.get(url, params={"format": "jsonl"})
    assert answer.headers["shoal-deleted-embeddings"] == val
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert {row["embeddings"] for row in rows if row["image_path"] is None} == {val}
    assert {row["embeddings"] for row in rows if row["image_path"] is not None} == {train}
    assert all(row["image_id"] for row in rows)


def test_paths_and_labels_that_a_table_must_quote_come_back(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    labels = ['a "quoted", label', "line\nbreak", "=1+1", ""]
    vectors, _ = planted(40)
    found = run_job(make_set("odd", vectors, [labels[row % 4] for row in range(40)]), clusters=2, seed=0)
    text = api.get(f"/clusterings/{found.id}/assignments", params={"format": "csv"}).text
    assert [row["label"] for row in DictReader(io.StringIO(text))] == [labels[row % 4] for row in range(40)]


def test_what_does_not_exist_is_not_found(api: TestClient, clustering: Clustering) -> None:
    for path in ("", "/metrics", "/clusters", "/clusters/0", "/assignments", "/report", "/contact-sheet"):
        assert code_of(api.get(f"/clusterings/c-nothing{path}")) == (404, "clustering_not_found"), path
    assert code_of(api.get(f"/clusterings/{clustering.id}/clusters/4")) == (404, "cluster_not_found")
    assert code_of(api.get(f"/clusterings/{clustering.id}/clusters/-1")) == (404, "cluster_not_found")
    assert code_of(api.get(f"/clusterings/{clustering.id}/clusters", params={"embeddings": "other"})) == (
        404,
        "not_found",
    )


def test_a_deleted_clustering_is_gone(api: TestClient, clustering: Clustering) -> None:
    url = f"/clusterings/{clustering.id}"
    assert api.delete(url).status_code == 204
    assert code_of(api.get(url)) == (404, "clustering_not_found")
    assert code_of(api.delete(url)) == (404, "clustering_not_found")
    assert api.get("/clusterings").json() == {"clusterings": []}
