"""A clustering with rows in no group, over HTTP: cluster -1 wherever clusters are read."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusterer.jobs import assign as assigning
from fastapi.testclient import TestClient
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
NOISE = range(120, 150)
"""Rows that are planted all over the place."""


@pytest.fixture
def rows(planted: Planted) -> Any:
    vectors, _ = planted(120)
    return np.concatenate([vectors, 9 * np.random.default_rng(3).normal(size=(30, 16))]).astype(np.float32)


@pytest.fixture
def embeddings(make_set: MakeSet, rows: Any) -> str:
    return make_set("mine", rows, [*"abcd" * 30, *"x" * 30], thumbnails=True)


@pytest.fixture
def found(embeddings: str, run_job: RunJob) -> Clustering:
    return run_job(embeddings, method="hdbscan", graph={"min_samples": 5})


def noise_of(clustering: Clustering) -> set[int]:
    table = clustering.assignments(columns=["row", "cluster"]).to_pylist()
    return {each["row"] for each in table if each["cluster"] == -1}


def test_noise_is_counted_and_looked_at_like_a_group(api: TestClient, found: Clustering) -> None:
    noise, base = noise_of(found), f"/clusterings/{found.id}"
    assert len(noise & set(NOISE)) >= 15
    facts = api.get(base).json()
    assert facts["k"] == 4
    assert facts["noise"] == {"rows": len(noise), "share": pytest.approx(len(noise) / 150)}
    listed = api.get(f"{base}/clusters").json()
    sizes = {each["cluster"]: each["size"] for each in listed["clusters"]}
    assert (listed["total"], set(sizes), sizes[-1]) == (5, {-1, 0, 1, 2, 3}, len(noise))
    entry = api.get(f"{base}/clusters/-1", params={"thumbnails": True}).json()
    assert (entry["cluster"], entry["size"], entry["label"], entry["merged_cluster"]) == (-1, len(noise), None, -1)
    assert {each["row"] for each in entry["nearest"]} <= noise
    members = api.get(f"{base}/clusters/-1/members").json()
    assert {each["row"] for each in members["members"]} == noise
    assert all(each["cluster"] == -1 for each in members["members"])
    refused = api.get(f"{base}/clusters/4")
    assert refused.json()["detail"] == f"Clustering '{found.id}' has clusters 0 to 3, and -1 for noise, not 4."
    by_distance = api.get(f"{base}/clusters", params={"sort": "distance", "to": 0}).json()["clusters"]
    assert (by_distance[0]["cluster"], by_distance[-1]["cluster"], by_distance[-1]["distance"]) == (0, -1, None)
    assert [each["cluster"] for each in api.get(f"{base}/clusters", params={"clusters": "-1,2"}).json()["clusters"]]
    matching = api.get(f"{base}/clusters", params={"label": "x"}).json()["clusters"]
    assert next(each["matches"] for each in matching if each["cluster"] == -1) == len(noise & set(NOISE))


def test_groups_are_named_merged_and_corrected_beside_noise(
    api: TestClient, found: Clustering, embeddings: str
) -> None:
    noise, base = noise_of(found), f"/clusterings/{found.id}"
    row = min(noise)

    def change(what: str, body: dict[str, Any], **params: str) -> int:
        match = {"If-Match": api.get(f"{base}/names").headers["etag"]}
        return api.patch(f"{base}/{what}", params=params, json=body, headers=match).status_code

    assert change("names", {"0": {"name": "first"}, "3": {"merged_into": 0}}) == 200
    assert change("moves", {str(row): 2}, embeddings=embeddings) == 200
    listed = {each["cluster"]: each for each in api.get(f"{base}/clusters", params={"merged": True}).json()["clusters"]}
    assert set(listed) == {-1, 0, 1, 2}
    assert (listed[0]["name"], listed[0]["parts"], listed[-1]["name"]) == ("first", [0, 3], None)
    assert listed[-1]["size"] == len(noise) - 1
    members = api.get(f"{base}/clusters/-1/members").json()
    assert {each["row"] for each in members["members"]} == noise - {row}
    assert members["previous"] is not None or members["next"] is not None
    first = api.get(f"{base}/clusters/2/members").json()["members"][0]
    assert (first["row"], first["cluster"], first["moved_from"]) == (row, -1, -1)
    assert [change("names", each) for each in ({"-1": {"name": "rest"}}, {"1": {"merged_into": -1}})] == [422, 422]


def test_exports_and_the_map_say_noise(api: TestClient, found: Clustering, embeddings: str) -> None:
    noise, base = noise_of(found), f"/clusterings/{found.id}"
    table = pq.read_table(io.BytesIO(api.get(f"{base}/export", params={"format": "parquet"}).content))
    assert {each["row"] for each in table.to_pylist() if each["cluster"] == each["merged_cluster"] == -1} == noise
    lines = api.get(f"{base}/export", params={"format": "jsonl"}).text.splitlines()
    assert {json.loads(line)["row"] for line in lines if json.loads(line)["cluster"] == -1} == noise
    coco = api.get(f"{base}/export", params={"format": "coco"}).json()
    names = {each["id"]: each["name"] for each in coco["categories"]}
    assert {each["id"] - 1 for each in coco["annotations"] if names[each["category_id"]] == "noise"} == noise
    fiftyone = api.get(f"{base}/export", params={"format": "fiftyone"}).json()["labels"]
    assert sum(each["label"] == "noise" for each in fiftyone.values()) == len(noise)
    places = pa.ipc.open_stream(api.get(f"{base}/map").content).read_all()
    assert {each["row"] for each in places.to_pylist() if each["cluster"] == -1} == noise
    body = api.get(f"{base}/map/values", params={"by": "cluster"}).content
    header = json.loads(body[4 : 4 + int.from_bytes(body[:4], "little")])
    assert {each["cluster"]: each["count"] for each in header["legend"]}[-1] == len(noise)
    shown = api.get(f"{base}/map/rows", params={"rows": min(noise)}).json()["rows"][0]
    assert (shown["cluster"], shown["merged_cluster"], shown["name"]) == (-1, -1, None)
    report = api.get(f"{base}/report").text
    assert "<h3><bdi>Noise: in no group</bdi></h3>" in report
    assert f"{len(noise)} images of {embeddings}" in report


def test_clusterings_with_noise_are_compared(
    api: TestClient, found: Clustering, embeddings: str, run_job: RunJob
) -> None:
    noise, other = noise_of(found), run_job(embeddings, clusters=4, seed=0)
    answer = api.get(f"/clusterings/{found.id}/compare/{other.id}", params={"sort": "size"}).json()
    assert {each["cluster"]: each["size"] for each in answer["clusters"]}[-1] == len(noise)
    assert sum(each["rows"] for each in answer["cells"] if each["a"] == -1) == len(noise)
    back = api.get(f"/clusterings/{other.id}/compare/{found.id}").json()
    assert sum(each["rows"] for each in back["cells"] if each["b"] == -1) == len(noise)
    cell = next(each for each in answer["cells"] if each["a"] == -1)
    listed = api.get(f"/clusterings/{found.id}/compare/{other.id}/rows", params={"a": -1, "b": cell["b"]}).json()
    assert listed["total"] == cell["rows"]
    assert api.get(f"/clusterings/{other.id}/clusters/-1").status_code == 404


def test_new_rows_may_be_noise(
    api: TestClient, found: Clustering, embeddings: str, rows: Any, store: Any, settings: Settings
) -> None:
    answers = api.post(f"/clusterings/{found.id}/assign", json={"embeddings": rows.tolist()}).json()
    clusters = found.assignments(columns=["cluster"]).column("cluster").to_pylist()
    assert [each["cluster"] for each in answers] == clusters
    at = clusters.index(-1)
    assert (answers[at]["label"], answers[at]["merged_cluster"], answers[at]["name"]) == (None, -1, None)
    request = {"clustering": found.id, "embeddings": embeddings}
    made = assigning.run(JobContext.local(request, kind="assign"), settings)["assignments"]
    listed = api.get(f"/assignments/{made}/clusters").json()["clusters"]
    assert {each["cluster"]: each["size"] for each in listed}[-1] == clusters.count(-1)
    lines = api.get(f"/assignments/{made}/rows", params={"format": "jsonl"}).text.splitlines()
    assert [json.loads(line)["cluster"] for line in lines] == clusters
    drift = api.get(f"/assignments/{made}").json()["drift"]
    assert drift["sizes"]["psi"] == 0


def test_noise_is_clustered_by_itself(api: TestClient, found: Clustering, embeddings: str, run_job: RunJob) -> None:
    where = {"clusters": {"clustering": found.id, "clusters": [-1]}}
    again = run_job(embeddings, clusters=2, where=where)
    assert set(again.assignments().column("row").to_pylist()) == noise_of(found)
    plain = {"clusters": {"clustering": again.id, "clusters": [-1]}}
    refused = api.post("/cluster", json={"embeddings": embeddings, "clusters": 2, "where": plain})
    assert (refused.status_code, refused.json()["field"]) == (422, "where.clusters.clusters")


def test_a_request_says_which_field_does_not_fit(api: TestClient, embeddings: str) -> None:
    body = {"embeddings": embeddings, "method": "hdbscan"}
    refused = api.post("/cluster", json={**body, "clusters": 5})
    assert refused.status_code == 422
    assert "finds the number of groups itself: leave `clusters` out" in refused.text
    refused = api.post("/cluster", json={**body, "execution": {"engine": "ray"}})
    assert (refused.status_code, refused.json()["field"]) == (422, "method")
    assert api.post("/cluster", json=body).status_code == 202
    sweep = {"embeddings": embeddings, "clusters": [2, 3], "method": ["kmeans", "leiden", "hdbscan"]}
    assert api.post("/sweep", json=sweep).status_code == 202
