"""`POST /v1/embeddings`: a few images in, their vectors out, in the shape that OpenAI's clients read."""

from __future__ import annotations

import base64
import errno
import os
import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from extractor import pipeline
from extractor.api import predictions, routes
from fastapi.testclient import TestClient
from PIL import Image
from shoal.errors import ShoalError
from shoal.jobs.child import JobContext
from shoal.jobs.protocol import ChildJob
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store

KIND = "embed:torch"


def uri(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


RED, BLUE = (uri(Image.new("RGB", (8, 8), colour)) for colour in ((255, 0, 0), (0, 0, 255)))


@pytest.fixture
def client(settings: Settings, queue: JobQueue) -> TestClient:
    return TestClient(routes.build(settings, queue, Store(settings.store)), raise_server_exceptions=False)


@pytest.fixture
def worker(settings: Settings, queue: JobQueue) -> Iterator[None]:
    """Does the jobs of the endpoint in a thread, as a worker's child does in a process."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            claim = queue.claim([KIND], "test")
            if claim is None:
                continue
            job = ChildJob(claim.job.id, claim.job.kind, claim.attempt, claim.owner, claim.job.request, None)
            try:
                queue.succeed(claim, pipeline.run(JobContext(job, lambda event: None), settings))
            except ShoalError as error:
                queue.fail(claim, error.problem(), retry=False)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def test_images_become_vectors_in_their_order(client: TestClient, settings: Settings, worker: None) -> None:
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": [RED, BLUE]}).json()
    assert (answer["object"], answer["model"]) == ("list", "raw_pixels")
    assert [row["index"] for row in answer["data"]] == [0, 1]
    red, blue = (np.array(row["embedding"]).reshape(32, 32, 3) for row in answer["data"])
    assert red[5, 5].tolist() == [1, 0, 0]
    assert blue[5, 5].tolist() == [0, 0, 1]
    assert not list((settings.store / "inline").iterdir())


def test_base64_holds_the_same_floats(client: TestClient, worker: None) -> None:
    body = {"model": "raw_pixels", "input": RED, "encoding_format": "base64"}
    (row,) = client.post("/v1/embeddings", json=body).json()["data"]
    vector = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
    assert vector.shape == (3072,)
    assert vector.reshape(32, 32, 3)[0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"input": "https://example.org/cat.png"}, "invalid_request"),
        ({"input": [RED, "http://127.0.0.1/x.png"]}, "invalid_request"),
        ({"input": "file:///etc/passwd"}, "invalid_request"),
        ({"input": "data:image/png;base64,@@@@"}, "invalid_request"),
        ({"input": []}, "out_of_range"),
        ({"input": [RED] * 65}, "out_of_range"),
        ({"model": "nothing"}, "unknown_model"),
        ({"dimensions": 5}, "unknown_field"),
    ],
)
def test_bad_requests_are_refused_before_they_are_jobs(
    client: TestClient, queue: JobQueue, settings: Settings, change: dict[str, object], code: str
) -> None:
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": RED, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert queue.list().jobs == []
    assert not (settings.store / "inline").exists()


def test_an_image_that_cannot_be_decoded_is_named(client: TestClient, settings: Settings, worker: None) -> None:
    text = "data:image/png;base64," + base64.b64encode(b"just text").decode()
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": [RED, text]})
    assert (answer.status_code, answer.json()["code"], answer.json()["input"]) == (422, "image_unrecognised", 1)
    assert not list((settings.store / "inline").iterdir())


def test_without_a_worker_it_says_so_and_leaves_nothing_behind(
    client: TestClient, queue: JobQueue, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "TIMEOUT_S", 0.3)
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": RED})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    (job,) = queue.list().jobs
    assert (job.state, answer.json()["job"]) == ("cancelled", f"/jobs/{job.id}")
    assert not list((settings.store / "inline").iterdir())


def test_a_full_disk_leaves_nothing_behind(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": RED})
    assert (answer.status_code, answer.json()["code"]) == (507, "store_full")
    assert not list((settings.store / "inline").iterdir())


def test_an_image_that_kills_its_decoder_costs_its_request_alone(
    client: TestClient, worker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.mkdir()
    (program / "sitecustomize.py").write_text(
        "import os, signal\nfrom extractor.images import child\nreal = child.read_image_file\n"
        "def read(root, path, *stamp):\n    data = real(root, path, *stamp)\n"
        "    if b'evil' in data:\n        os.kill(os.getpid(), signal.SIGKILL)\n    return data\n"
        "child.read_image_file = read\n"
    )
    evil = "data:image/png;base64," + base64.b64encode(b"evil").decode()
    monkeypatch.setenv("PYTHONPATH", str(program))
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": [RED, evil]})
    assert (answer.status_code, answer.json()["code"], answer.json()["input"]) == (422, "image_decoder_died", 1)
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": [RED]})
    assert answer.status_code == 200


def test_abandoned_requests_are_swept_away(
    client: TestClient, settings: Settings, worker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extractor.online import inline

    left: Callable[[], list[object]] = lambda: list((settings.store / "inline").iterdir())  # noqa: E731
    inline.InlineFolder.create(settings.store, [b"x"])
    client.post("/v1/embeddings", json={"model": "raw_pixels", "input": RED})
    assert len(left()) == 1
    monkeypatch.setattr(inline, "ABANDONED_S", -1.0)
    client.post("/v1/embeddings", json={"model": "raw_pixels", "input": RED})
    assert left() == []
