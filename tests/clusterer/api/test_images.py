"""Images sent to `/assign`: what the extractor is asked, and what becomes of its answers."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from clusterer.api.images import model_of
from fastapi.testclient import TestClient
from httpx2 import Response
from shoal.inline import MAX_IMAGE_BYTES
from shoal.store.clustering import Clustering
from shoal.store.records import KeyRules, LoadedCheckpoint, ModelRecord

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]
Extractor = Callable[..., list[dict[str, Any]]]
IMAGE = "data:image/png;base64,AAAA"


def code_of(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def answer_of(vectors: Any) -> dict[str, Any]:
    """The extractor's answer, the last embedding first."""
    data = [
        {"index": index, "embedding": base64.b64encode(row.astype("<f4").tobytes()).decode()}
        for index, row in enumerate(vectors)
    ]
    return {"data": data[::-1]}


@pytest.fixture
def extractor(api: TestClient) -> Iterator[Extractor]:
    """``extractor(status, answer, headers)``: a server in the extractor's place; the requests that it is sent."""
    stop: list[ThreadingHTTPServer] = []

    def start(status: int, answer: Any, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
                sent.append({"path": self.path, "client": self.client_address, **json.loads(body)})
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        stop.append(server)
        state = api.app.state  # type: ignore[attr-defined]
        state.settings = state.settings.model_copy(update={"extractor_url": f"http://127.0.0.1:{server.server_port}"})
        return sent

    yield start
    for server in stop:
        server.shutdown()
        server.server_close()


def test_new_images_are_embedded_by_the_model_that_was_clustered(
    api: TestClient, clustering: Clustering, planted: Planted, extractor: Extractor
) -> None:
    url = f"/clusterings/{clustering.id}/assign"
    vectors, _ = planted(2)
    sent = extractor(200, answer_of(vectors))
    images = [IMAGE, "data:image/png;base64," + "B" * (1 << 20) + '"\\é']
    answer = api.post(url, json={"images": images})
    assert answer.json() == api.post(url, json={"embeddings": vectors.tolist()}).json()
    client = sent[0].pop("client")
    assert sent[0] == {"path": "/v1/embeddings", "model": "raw_pixels", "input": images, "encoding_format": "base64"}
    # All requests share one client, which keeps its connection.
    assert api.post(url, json={"images": images, "outlier_quantile": 0.5}).status_code == 200
    assert sent[1]["client"] == client


def test_an_extractor_that_is_away_is_reported(api: TestClient, clustering: Clustering) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        state = api.app.state  # type: ignore[attr-defined]
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        state.settings = state.settings.model_copy(update={"extractor_url": nobody})
        answer = api.post(f"/clusterings/{clustering.id}/assign", json={"images": [IMAGE]})
    assert code_of(answer) == (503, "unavailable")
    assert nobody in answer.json()["detail"]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (422, "image_truncated"),
        (403, "forbidden"),
        (429, "rate_limited"),
        (503, "unavailable"),
        (504, "not_known_here"),
    ],
)
def test_what_the_extractor_refuses_is_passed_on(
    api: TestClient, clustering: Clustering, extractor: Extractor, status: int, code: str
) -> None:
    problem = {"code": code, "detail": "No.", "status": status, "title": "no", "image": 3}
    extractor(status, problem, {"Retry-After": "7"})
    answer = api.post(f"/clusterings/{clustering.id}/assign", json={"images": [IMAGE]})
    assert code_of(answer) == (status, code)
    assert answer.headers["retry-after"] == "7"
    assert (answer.json()["detail"], answer.json()["image"]) == ("No.", 3)


def test_what_the_extractor_says_of_its_field_is_said_of_that_of_this_request(
    api: TestClient, clustering: Clustering, extractor: Extractor
) -> None:
    detail = "`input` 0 is not a data URI."
    extractor(422, {"code": "invalid_request", "detail": detail, "message": detail, "field": "input"})
    answer = api.post(f"/clusterings/{clustering.id}/assign", json={"images": ["a.jpg"]})
    assert code_of(answer) == (422, "invalid_request")
    assert answer.json()["detail"] == "`images` 0 is not a data URI."
    assert answer.json()["field"] == "images"
    assert "message" not in answer.json()


def test_an_image_larger_than_the_extractor_takes_is_not_sent_to_it(
    api: TestClient, clustering: Clustering, extractor: Extractor
) -> None:
    sent = extractor(200, b"")
    answer = api.post(f"/clusterings/{clustering.id}/assign", json={"images": ["A" * (4 * MAX_IMAGE_BYTES // 3 + 999)]})
    assert code_of(answer) == (422, "out_of_range")
    assert sent == []


def test_a_failure_without_a_problem_keeps_its_status(
    api: TestClient, clustering: Clustering, extractor: Extractor
) -> None:
    extractor(502, b"<html>")
    answer = api.post(f"/clusterings/{clustering.id}/assign", json={"images": [IMAGE]})
    assert answer.status_code == 502
    assert answer.json()["detail"] == "The extractor answered 502."


@pytest.mark.parametrize("transform", ["{", "[1]", "null"])
def test_a_transform_that_is_no_object_is_the_extractors_fault(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob, extractor: Extractor, transform: str
) -> None:
    vectors, labels = planted()
    found = run_job(make_set("mine", vectors, labels, transform={"size": 16}), clusters=3, seed=0)
    extractor(200, answer_of(vectors[:1]), {"X-Shoal-Transform": transform})
    answer = api.post(f"/clusterings/{found.id}/assign", json={"images": [IMAGE]})
    assert code_of(answer) == (503, "unavailable")


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"data": [{"index": 0}]}', b'{"data": [{"index": 0, "embedding": "AAA="}]}', b"{"]
)
def test_an_answer_that_is_not_embeddings_is_the_extractors_fault(
    api: TestClient, clustering: Clustering, extractor: Extractor, content: bytes
) -> None:
    extractor(200, content)
    answer = api.post(f"/clusterings/{clustering.id}/assign", json={"images": [IMAGE]})
    assert code_of(answer) == (503, "unavailable")


def test_embeddings_of_another_model_are_refused(
    api: TestClient, clustering: Clustering, planted: Planted, extractor: Extractor
) -> None:
    url = f"/clusterings/{clustering.id}/assign"
    vectors, _ = planted(1)
    record = ModelRecord.model_validate(clustering.spec["model"])
    for digest, status in ((record.digest, 200), ("0" * 64, 409)):
        extractor(200, answer_of(vectors), {"X-Shoal-Model-Digest": digest})
        assert api.post(url, json={"images": [IMAGE]}).status_code == status
    answer = api.post(url, json={"images": [IMAGE]})
    assert code_of(answer) == (409, "model_changed")
    assert answer.json()["model"] == "raw_pixels"
    extractor(200, answer_of(np.zeros((1, 17))))
    assert code_of(api.post(url, json={"images": [IMAGE]})) == (409, "model_changed")


def test_embeddings_of_images_that_were_prepared_otherwise_are_refused(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob, extractor: Extractor
) -> None:
    transform = {"size": 16, "mean": [0.5, 0.5, 0.5], "crop_fraction": 0.875}
    vectors, labels = planted()
    found = run_job(make_set("mine", vectors, labels, transform=transform), clusters=3, seed=0)
    for now, status in (
        (None, 200),
        (transform, 200),
        ({**transform, "interpolation": "bicubic"}, 200),  # A field that older plans do not have.
        ({**transform, "mean": [0.5, 0.5, 0.4]}, 409),
    ):
        extractor(200, answer_of(vectors[:1]), {} if now is None else {"X-Shoal-Transform": json.dumps(now)})
        answer = api.post(f"/clusterings/{found.id}/assign", json={"images": [IMAGE]})
        assert answer.status_code == status
    assert code_of(answer) == (409, "model_changed")
    assert "`mean` is [0.5, 0.5, 0.4] instead of [0.5, 0.5, 0.5]" in answer.json()["detail"]


def record(**fields: Any) -> ModelRecord:
    return ModelRecord(**{"backend": "torch", "embedding": "pooled", "layout": "auto", **fields})


def test_models_are_named_as_they_were_requested() -> None:
    for name, architecture, file in (
        ("simclr_resnet50", "resnet50", "simclr.pth"),
        ("timm:resnet50", "resnet50", None),
        ("raw_pixels", "pixels", None),
    ):
        assert model_of(record(name=name, architecture=architecture, weights_file=file), None) == name
    served = record(name="resnet50-1", architecture="resnet50", weights_file="1", backend="tfserving")
    assert model_of(served, None) == "resnet50-1"


def test_a_model_of_ones_own_is_named_by_its_parts() -> None:
    loaded = LoadedCheckpoint(asked_layout="auto", container="state_dict", prefix="", filled=3)
    own = record(
        name="resnet50-mine",
        architecture="resnet50",
        weights_file="mine.v2.pth",
        layout="moco",
        loaded=loaded,
        embedding="layer4",
        keys=KeyRules(prefix="net.", rename=(("a.", "b."),)),
    )
    transform = {"size": 96, "mean": [0.5, 0.5, 0.5], "resize": "short side"}
    named = {
        "architecture": "resnet50",
        "weights": "mine.v2.pth",
        "layout": "auto",
        "embedding": "layer4",
        "prefix": "net.",
        "rename": [["a.", "b."]],
        "transform": {"size": 96, "mean": [0.5, 0.5, 0.5]},
    }
    assert model_of(own, transform) == named
    elsewhere = own.model_copy(update={"loaded": loaded.model_copy(update={"file": "runs/7/mine.v2.pth"})})
    assert model_of(elsewhere, transform) == {**named, "weights": "runs/7/mine.v2.pth"}
    assert elsewhere.digest == own.digest
    assert model_of(record(name="resnet50-random3", architecture="resnet50", seed=3), None) == {
        "architecture": "resnet50",
        "weights": "random",
        "layout": "auto",
        "embedding": "pooled",
        "seed": 3,
    }
