"""Requests that reach for what lies outside: paths, ids, models and addresses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clusterer.api import clusterings as clusterer_api
from clusterer.api.assign import AssignRequest
from extractor.api import routes as extractor_api
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import ValidationError
from shoal.jobs.queue import JobQueue
from shoal.schemas import ClusterRequest, ExtractRequest, Request
from shoal.settings import Settings
from shoal.store import Store


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """A data, a models and a store root, with something worth stealing beside them."""
    for folder in ("data/images", "models", "store", "secret"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "data/images/a.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret/a.png")
    (tmp_path / "secret/weights.pth").write_bytes(b"weights")
    (tmp_path / "secret/labels.csv").write_text("path,label\na.png,x\n")
    (tmp_path / "data/link").symlink_to("../secret")
    (tmp_path / "data/images/link").symlink_to(tmp_path / "secret")
    (tmp_path / "data/chain").symlink_to("images/link")
    (tmp_path / "data/labels.csv").symlink_to("../secret/labels.csv")
    (tmp_path / "data/loop").symlink_to("loop")
    (tmp_path / "models/link.pth").symlink_to("../secret/weights.pth")
    return tmp_path


@pytest.fixture
def settings(roots: Path, redis_server: str) -> Settings:
    return Settings(
        data=roots / "data", models=roots / "models", store=roots / "store", redis_url=redis_server, offline=True
    )


@pytest.fixture
def extractor(settings: Settings, queue: JobQueue) -> TestClient:
    return TestClient(extractor_api.build(settings, queue, Store(settings.store)), raise_server_exceptions=False)


@pytest.fixture
def clusterer(settings: Settings, queue: JobQueue) -> TestClient:
    return TestClient(clusterer_api.build(settings, queue, Store(settings.store)), raise_server_exceptions=False)


@pytest.fixture(autouse=True)
def nothing_was_queued(queue: JobQueue) -> Iterator[None]:
    yield
    assert queue.list().jobs == []


PATHS = [
    "..",
    "../secret",
    "images/../../secret",
    "/etc",
    "//etc",
    "///",
    "~",
    "~root",
    "link",
    "images/link",
    "chain",
    "loop",
    "..\\secret",
    "images\\..\\..\\secret",
    "images\0",
    "file:///etc",
    "http://169.254.169.254/",
    "s3://bucket/key",
    "%2e%2e/secret",
    "..%2fsecret",
    "\u2025/secret",
    "．．/secret",
    "images/" + "../" * 50 + "etc",
    "a" * 4000,
    "C:\\Windows",
    "$HOME",
    "$(id)",
    "`id`",
    "images; id",
    "-rf",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_data_root(extractor: TestClient, path: str) -> None:
    answer = extractor.post("/extract", json={"images": {"path": path}, "model": "raw_pixels"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] in {"path_outside_root", "path_not_found", "no_images"}
    assert "weights.pth" not in answer.text


@pytest.mark.parametrize("file", ["../secret/labels.csv", "labels.csv", "/etc/passwd", "link/labels.csv", "images"])
def test_no_label_file_lies_outside(extractor: TestClient, file: str) -> None:
    body = {"images": {"path": "images", "labels": {"file": file}}, "model": "raw_pixels"}
    answer = extractor.post("/extract", json=body)
    assert (answer.status_code, answer.json()["code"]) in {
        (422, "path_outside_root"),
        (422, "labels_invalid"),
        (422, "path_not_found"),
    }
    assert "root:" not in answer.text


@pytest.mark.parametrize(
    "weights",
    [
        "../secret/weights.pth",
        "/etc/passwd",
        "link.pth",
        "http://127.0.0.1/w.pth",
        "..\\w",
        "a\0b",
        "file:///etc/passwd",
    ],
)
def test_no_weights_lie_outside_or_on_the_network(extractor: TestClient, weights: str) -> None:
    body = {"images": {"path": "images"}, "model": {"architecture": "resnet18", "weights": weights}}
    answer = extractor.post("/extract", json=body)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    "model",
    [
        "../../etc/passwd",
        "timm:hf-hub:evil/model",
        "hf-hub:evil/model",
        "timm:local-dir:/etc",
        "__import__('os')",
        "timm:",
    ],
)
def test_no_model_name_fetches_or_runs_what_it_names(extractor: TestClient, model: str) -> None:
    answer = extractor.post("/extract", json={"images": {"path": "images"}, "model": model})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_model")


@pytest.mark.parametrize("name", ["../x", ".hidden", "a/b", "", "a" * 101, "a\n", "-", "a b", "é", "a\0"])
def test_no_name_becomes_a_path(extractor: TestClient, name: str) -> None:
    answer = extractor.post("/extract", json={"images": {"path": "images"}, "model": "raw_pixels", "name": name})
    assert answer.status_code == 422


IDS = ["..", ".", "..%2f..%2fsecret", "%2e%2e", "..%5csecret", ".tmp", "a%00b", "a" * 300, "%2fetc", "a%0ab", "-x"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("identifier", IDS)
def test_no_id_reads_or_deletes_outside_the_store(
    extractor: TestClient, clusterer: TestClient, roots: Path, method: str, identifier: str
) -> None:
    for client, kind in ((extractor, "embeddings"), (clusterer, "clusterings")):
        answer = client.request(method, f"/{kind}/{identifier}")
        # `..` is taken out of the path by the client itself, as by any browser: other routes answer then.
        assert answer.status_code in {404, 405, 422} or (identifier in {"..", ".", "%2e%2e"} and method == "GET")
    assert (roots / "secret/weights.pth").exists()
    assert (roots / "store").is_dir()


@pytest.mark.parametrize(
    "image",
    [
        "http://127.0.0.1:6379/",
        "https://evil.example/a.png",
        "file:///etc/passwd",
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/png,notbase64",
        "data:image/png;base64,***",
        "DATA:IMAGE/PNG;BASE64,AAAA",
        "//evil.example/a.png",
        "ftp://evil.example/a.png",
        "/etc/passwd",
    ],
)
def test_no_address_is_fetched_for_an_inline_image(extractor: TestClient, image: str) -> None:
    answer = extractor.post("/v1/embeddings", json={"model": "raw_pixels", "input": image})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "not fetched" in answer.json()["detail"] or "base64" in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        {"embeddings": "../x", "clusters": 2},
        {"embeddings": "a/b", "clusters": 2},
        {"embeddings": {"train": "..", "score": ["a"]}, "clusters": 2},
        {"embeddings": {"train": "a", "score": ["a"] * 101}, "clusters": 2},
        {"embeddings": "a", "clusters": 2**63},
        {"embeddings": "a", "clusters": -1},
        {"embeddings": "a", "over": 1e308},
        {"embeddings": "a", "clusters": 2, "pca": {"components": 10**9}},
        {"embeddings": "a", "clusters": 2, "kmeans": {"iterations": 10**9}},
        {"embeddings": "a", "clusters": 2, "kmeans": {"restarts": 10**9}},
        {"embeddings": "a", "clusters": 2, "kmeans": {"engine": "os.system"}},
        {"embeddings": "a", "clusters": 2, "seeds": list(range(101))},
        {"embeddings": "a", "clusters": 2, "seed": -1},
        {"embeddings": "a", "clusters": True},
        {"embeddings": ["a"], "clusters": 2},
    ],
)
def test_no_number_or_id_is_out_of_bounds(clusterer: TestClient, body: dict[str, object]) -> None:
    assert clusterer.post("/cluster", json=body).status_code == 422


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 0},
        {"batch_size": 10**9},
        {"shard_rows": 10**12},
        {"max_failed_fraction": 2},
        {"dtype": "object"},
        {"thumbnails": "yes"},
    ],
)
def test_no_option_of_an_extraction_is_out_of_bounds(extractor: TestClient, change: dict[str, object]) -> None:
    body = {"images": {"path": "images"}, "model": "raw_pixels", **change}
    assert extractor.post("/extract", json=body).status_code == 422


MANY = {f"k{number}": number for number in range(50_000)}
MODEL = {"architecture": "resnet18", "weights": "random"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ClusterRequest, MANY),
        (ClusterRequest, {"embeddings": {"train": "a", "score": [{"embeddings": "b", "class_map": MANY}] * 100}}),
        (ExtractRequest, {"images": {"path": "a", "labels": MANY}, "model": MODEL}),
        (ExtractRequest, {"images": {"path": "a"}, "model": {**MODEL, "transform": MANY}}),
        (ExtractRequest, {"images": {"path": "a"}, "model": {**MODEL, "rename": MANY}}),
        (AssignRequest, {"embeddings": [[None] * 100] * 1000}),
        (AssignRequest, {"embeddings": [None] * 10_000}),
    ],
)
def test_a_body_of_faults_is_not_described_fault_by_fault(kind: type[Request], body: dict[str, object]) -> None:
    """Each fault is described while the event loop waits: of a million of them it would wait for half a minute."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    assert caught.value.error_count() <= 100
