"""The extractor over HTTP: what it accepts, what it refuses with which code, what it shows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from extractor import pipeline
from extractor.api import routes
from fastapi.testclient import TestClient
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store

Make = Callable[..., Path]
BODY = {"images": {"path": "set"}, "model": "raw_pixels"}


@pytest.fixture
def client(settings: Settings, queue: JobQueue) -> Iterator[TestClient]:
    app = routes.build(settings, queue, Store(settings.store))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def extracted(settings: Settings, **fields: Any) -> str:
    """The id of embeddings made without a worker."""
    context = JobContext.local({**BODY, **fields}, kind="extract:torch")
    return str(pipeline.run(context, settings)["embeddings"])


def test_a_request_becomes_a_job_of_its_models_kind(client: TestClient, make: Make) -> None:
    make("0.png")
    answer = client.post("/extract", json=BODY)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["state"], job["request"]) == ("extract:torch", "queued", BODY)


def test_the_same_idempotency_key_gives_the_same_job(client: TestClient, make: Make) -> None:
    make("0.png")
    headers = {"Idempotency-Key": "once"}
    ids = {client.post("/extract", json=BODY, headers=headers).json()["id"] for _ in range(2)}
    assert len(ids) == 1


def test_a_repeated_request_gets_its_job_though_its_folder_is_gone(
    client: TestClient, make: Make, settings: Settings
) -> None:
    make("0.png")
    headers = {"Idempotency-Key": "once"}
    job = client.post("/extract", json=BODY, headers=headers).json()["id"]
    (settings.data / "set").rename(settings.data / "moved")
    again = client.post("/extract", json=BODY, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, job)
    assert client.post("/extract", json=BODY).status_code == 422


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model": "resnet5000"}, "unknown_model"),
        ({"model": "timm:resnet5000"}, "unknown_model"),
        ({"model": {"architecture": "resnet18", "weights": "none.pth"}}, "path_not_found"),
        ({"model": {"architecture": "resnet18", "weights": "../x.pth"}}, "path_outside_root"),
        ({"images": {"path": ".."}}, "path_outside_root"),
        ({"images": {"path": "/etc"}}, "path_outside_root"),
        ({"images": {"path": "out"}}, "path_outside_root"),
        ({"images": {"path": "missing"}}, "path_not_found"),
        ({"images": {"path": "empty"}}, "no_images"),
        ({"images": {"path": "set", "labels": {"file": "missing.csv"}}}, "path_not_found"),
        ({"images": {"path": "set", "labels": {"file": "labels.csv"}}}, "labels_invalid"),
        ({"images": {"path": "set", "labels": "filename"}}, "invalid_value"),
        ({"images": {"path": "set", "labels": {"folder_level": -1}}}, "out_of_range"),
        ({"images": {"path": "set", "labels": {"folder_level": "1"}}}, "wrong_type"),
        ({"images": {"path": ""}}, "out_of_range"),
        ({"model": {"architecture": "resnet50", "weights": "random", "transform": {"size": 0}}}, "out_of_range"),
        ({"model": {"architecture": "resnet50", "weights": "random", "transfrom": {}}}, "unknown_field"),
        ({"model": {"weights": "random"}}, "missing_field"),
        ({"model": 3}, "wrong_type"),
        ({"batchsize": 4}, "unknown_field"),
        ({"batch_size": "4"}, "wrong_type"),
        ({"batch_size": 0}, "out_of_range"),
        ({"dtype": "bfloat16"}, "invalid_value"),
        ({"max_failed_fraction": 1.5}, "out_of_range"),
        ({"name": "../evil"}, "invalid_value"),
    ],
)
def test_what_can_never_work_is_refused_before_it_is_a_job(
    client: TestClient, settings: Settings, make: Make, tmp_path: Path, change: dict[str, Any], code: str
) -> None:
    make("0.png")
    (settings.data / "empty").mkdir()
    (settings.data / "labels.csv").write_text("file,class\n")
    (tmp_path / "private").mkdir()
    (settings.data / "out").symlink_to(tmp_path / "private")
    answer = client.post("/extract", json={**BODY, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/jobs").json()["jobs"] == []


def test_near_names_are_offered(client: TestClient, make: Make) -> None:
    make("0.png")
    answer = client.post("/extract", json={**BODY, "model": "tf_efficientnet_lite"}).json()
    assert "tf_efficientnet_lite0" in answer["detail"]


def test_models_say_whether_their_weights_are_here(client: TestClient) -> None:
    models = {row["name"]: row for row in client.get("/models").json()["models"]}
    assert models["raw_pixels"]["readiness"] == models["tf_efficientnet_lite0"]["readiness"] == "ready"
    assert models["tf_efficientnet_lite0"]["transform"]["size"] == 224
    assert client.get("/models/tf_efficientnet_lite0").json() == models["tf_efficientnet_lite0"]
    assert client.get("/models/timm:resnet18.a1_in1k").json()["readiness"] == "needs_file"
    missing = client.get("/models/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")


class TestEmbeddings:
    @pytest.fixture
    def embeddings_id(self, settings: Settings, folder: Path, make: Make) -> str:
        for i in range(3):
            make(f"{i}.png", i)
        for i in range(3, 6):
            (folder / f"{i}.png").write_bytes(b"")
        return extracted(settings, max_failed_fraction=0.5)

    def test_they_are_listed_and_shown(self, client: TestClient, embeddings_id: str) -> None:
        shown = client.get(f"/embeddings/{embeddings_id}").json()
        assert (shown["rows"], shown["failed"], shown["complete"]) == (3, 3, True)
        assert client.get("/embeddings").json() == {"embeddings": [shown]}

    def test_errors_come_in_pages(self, client: TestClient, embeddings_id: str) -> None:
        url = f"/embeddings/{embeddings_id}/errors"
        first = client.get(url, params={"limit": 2}).json()
        rest = client.get(url, params={"limit": 2, "offset": first["next_offset"]}).json()
        assert (first["total"], rest["next_offset"]) == (3, None)
        rows = first["errors"] + rest["errors"]
        assert [(row["image_path"], row["code"]) for row in rows] == [(f"{i}.png", "image_empty") for i in (3, 4, 5)]

    def test_unknown_ones_are_not_found(self, client: TestClient) -> None:
        for url in ("/embeddings/none", "/embeddings/none/errors"):
            assert client.get(url).json()["code"] == "embeddings_not_found"
        assert client.delete("/embeddings/none").json()["code"] == "embeddings_not_found"
        assert client.get("/embeddings/..%2f..").status_code in (404, 422)

    def test_they_can_be_deleted(self, client: TestClient, embeddings_id: str) -> None:
        assert client.delete(f"/embeddings/{embeddings_id}").status_code == 204
        assert client.get("/embeddings").json() == {"embeddings": []}

    @pytest.mark.parametrize("by_score", [False, True])
    def test_not_while_a_job_waits_for_them(
        self, client: TestClient, queue: JobQueue, embeddings_id: str, by_score: bool
    ) -> None:
        sets = {"train": "other", "score": ["x", embeddings_id]} if by_score else embeddings_id
        job, _ = queue.submit("cluster", {"embeddings": sets, "clusters": 2})
        answer = client.delete(f"/embeddings/{embeddings_id}")
        assert (answer.status_code, answer.json()["code"], answer.json()["job"]) == (409, "embeddings_in_use", job.id)
        queue.cancel(job.id)
        assert client.delete(f"/embeddings/{embeddings_id}").status_code == 204


def test_rows_say_which_image_each_embedding_is_of(client: TestClient, settings: Settings, make: Make) -> None:
    for number in range(12):
        make(f"{'ab'[number % 2]}/{number:02d}.png", number)
    (make("a/99.png")).write_bytes(b"no image")
    found = extracted(settings, max_failed_fraction=1.0)
    url = f"/embeddings/{found}/rows"
    pages, cursor = [], None
    while True:
        page = client.get(url, params={"limit": 5, **({"cursor": cursor} if cursor else {})}).json()
        pages.append(page["rows"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    rows = [row for each in pages for row in each]
    assert [len(each) for each in pages] == [5, 5, 2]
    assert (page["total"], page["complete"]) == (12, True)
    assert rows == Store(settings.store).embeddings(found).metadata().to_pylist()
    assert set(rows[0]) == {
        *("row", "image_id", "image_path", "label", "split", "width", "height", "bytes", "sha256"),
    }
    assert {row["label"] for row in rows} == {"a", "b"}


def test_rows_are_the_same_in_every_format(client: TestClient, settings: Settings, make: Make) -> None:
    for number in range(12):
        make(f"a/{number:02d}.png", number)
    found = extracted(settings)
    url = f"/embeddings/{found}/rows"
    rows = client.get(url).json()["rows"]
    contents = {each: client.get(url, params={"format": each}).content for each in ("parquet", "csv", "jsonl", "arrow")}
    assert [json.loads(line) for line in contents["jsonl"].splitlines()] == rows
    assert pq.read_table(io.BytesIO(contents["parquet"])).to_pylist() == rows
    assert ipc.open_stream(contents["arrow"]).read_all().to_pylist() == rows
    assert [row["image_path"] for row in csv.DictReader(io.StringIO(contents["csv"].decode()))] == [
        row["image_path"] for row in rows
    ]
    part = client.get(url, params={"format": "jsonl", "cursor": "3", "limit": 4}).text.splitlines()
    assert [json.loads(line)["row"] for line in part] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    "query",
    ["cursor=x", "cursor=-1", "cursor=99999999999999999999", "limit=0", "limit=20000", "format=xlsx", "offset=3"],
)
def test_rows_that_cannot_be_asked_for_are_refused(
    client: TestClient, settings: Settings, make: Make, query: str
) -> None:
    make("a/0.png")
    answer = client.get(f"/embeddings/{extracted(settings)}/rows?{query}")
    assert answer.status_code == 422, answer.text
    assert query.partition("=")[0] in answer.text


def test_rows_beyond_the_end_are_none(client: TestClient, settings: Settings, make: Make) -> None:
    make("a/0.png")
    url = f"/embeddings/{extracted(settings)}/rows"
    assert client.get(url, params={"cursor": "7"}).json()["rows"] == []
    for kind in ("parquet", "csv", "arrow", "jsonl"):
        assert client.get(url, params={"cursor": "7", "format": kind}).status_code == 200
    assert client.get("/embeddings/nothing/rows").json()["code"] == "embeddings_not_found"
