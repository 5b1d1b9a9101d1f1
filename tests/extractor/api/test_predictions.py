"""New images in, their vectors out, as the clients of OpenAI and of TorchServe send and read them."""

from __future__ import annotations

import base64
import json
import signal
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from extractor import pipeline
from extractor.api import routes
from extractor.api.images import image_of
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from shoal.errors import UnsupportedMediaType
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store

from tests.extractor.api.conftest import HostProcess, ServeApp
from tests.extractor.conftest import photo

CUSTOM = {"architecture": "resnet18", "weights": "random", "seed": 3, "transform": {"size": 32}}


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


RED_PNG, BLUE_PNG = (png(Image.new("RGB", (8, 8), colour)) for colour in ((255, 0, 0), (0, 0, 255)))
RED, BLUE = uri(RED_PNG), uri(BLUE_PNG)


@pytest.fixture
def app(host: HostProcess, queue: JobQueue) -> FastAPI:
    return routes.build(host.settings, queue, Store(host.settings.store))


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def address(app: FastAPI, serve_app: ServeApp) -> str:
    """Of a real server of the service."""
    return serve_app(app)


@pytest.fixture
def alone(settings: Settings, queue: JobQueue) -> Iterator[TestClient]:
    """A service without a model host."""
    app = routes.build(settings, queue, Store(settings.store))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_images_become_vectors_in_their_order(client: TestClient, host: HostProcess, queue: JobQueue) -> None:
    response = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": [RED, BLUE]})
    answer = response.json()
    assert (answer["object"], answer["model"]) == ("list", "raw_pixels")
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert [(row["object"], row["index"]) for row in answer["data"]] == [("embedding", 0), ("embedding", 1)]
    red, blue = (np.array(row["embedding"]).reshape(32, 32, 3) for row in answer["data"])
    assert red[5, 5].tolist() == [1, 0, 0]
    assert blue[5, 5].tolist() == [0, 0, 1]
    assert len(response.headers["X-Shoal-Model-Digest"]) == 64
    assert queue.list().jobs == []
    assert list(host.settings.store.iterdir()) == []


def test_base64_holds_the_same_floats(client: TestClient) -> None:
    body = {"model": "raw_pixels", "input": RED, "encoding_format": "base64"}
    (row,) = client.post("/v1/embeddings", json=body).json()["data"]
    vector = np.frombuffer(base64.b64decode(row["embedding"]), "<f4")
    assert vector.shape == (3072,)
    assert vector.reshape(32, 32, 3)[0, 0].tolist() == [1, 0, 0]


def test_texts_are_embedded_by_a_model_that_reads_them(client: TestClient) -> None:
    model = {"architecture": "open_clip:ViT-S-32-alt", "weights": "random"}
    answer = client.post("/v1/embeddings", json={"model": model, "input": ["a duck", "a boat"]})
    assert answer.status_code == 200, answer.text
    duck, boat = (np.array(row["embedding"]) for row in answer.json()["data"])
    assert duck.shape == (256,)
    assert not np.allclose(duck, boat)
    image = client.post("/v1/embeddings", json={"model": model, "input": [RED]})
    assert len(image.json()["data"][0]["embedding"]) == 256
    for model_, sent, why in (
        (model, ["a duck", RED], "without images beside them"),
        (model, [" "], "is blank"),
        (model, ["a" * 10_001], "10,001 characters"),
        (
            "raw_pixels",
            ["a duck"],
            "`input` 0 is not a data URI of an image. The model 'raw_pixels' embeds images only",
        ),
        ("raw_pixels", ["https://photos.example/duck.jpg"], "URLs are not fetched"),
    ):
        refused = client.post("/v1/embeddings", json={"model": model_, "input": sent})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request"), refused.text
        assert why in refused.json()["detail"]


def test_a_model_of_one_s_own_embeds_as_in_a_job(
    client: TestClient, host: HostProcess, wait_until: Callable[..., None]
) -> None:
    (host.settings.data / "set").mkdir()
    photo(1).save(host.settings.data / "set/a.png")
    request = {"images": {"path": "set"}, "model": CUSTOM}
    result = pipeline.run(JobContext.local(request, kind="extract:torch"), host.settings)
    stored = Store(host.settings.store).embeddings(result["embeddings"])
    answer = client.post("/v1/embeddings", json={"model": CUSTOM, "input": uri(png(photo(1)))})
    [row] = answer.json()["data"]
    np.testing.assert_array_equal(np.array([row["embedding"]], np.float32), stored.shard(0))
    assert answer.headers["X-Shoal-Model-Digest"] == stored.plan.model.digest
    assert json.loads(answer.headers["X-Shoal-Transform"]) == stored.plan.transform


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
        ({"model": {**CUSTOM, "weights": "none.pth"}}, "path_not_found"),
        ({"model": {**CUSTOM, "weight": "x"}}, "unknown_field"),
        ({"dimensions": 5}, "unknown_field"),
    ],
)
def test_bad_requests_are_refused_without_a_host(alone: TestClient, change: dict[str, object], code: str) -> None:
    answer = alone.post("/v1/embeddings", json={"model": "raw_pixels", "input": RED, **change})
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_an_image_that_cannot_be_decoded_is_named(client: TestClient) -> None:
    text = uri(b"just text")
    answer = client.post("/v1/embeddings", json={"model": "raw_pixels", "input": [RED, text]})
    assert (answer.status_code, answer.json()["code"], answer.json()["input"]) == (422, "image_unrecognised", 1)


def test_without_a_host_it_says_so_and_how_to_start_one(alone: TestClient, queue: JobQueue) -> None:
    answer = alone.post("/v1/embeddings", json={"model": "raw_pixels", "input": RED})
    assert (answer.status_code, answer.json()["code"]) == (503, "model_host_down")
    assert int(answer.headers["Retry-After"]) > 0
    assert "`python -m extractor host --backend torch`" in answer.json()["detail"]
    assert queue.list().jobs == []
    hosts = alone.get("/readyz").json()["hosts"]
    assert set(hosts) == {"torch", "tfserving"}
    assert "`shoal up`" in hosts["torch"]
    assert (alone.get("/ping").status_code, alone.get("/ping").json()) == (503, {"status": "Unhealthy"})
    assert alone.get("/models/raw_pixels").json()["loaded"] is False


def test_a_killed_host_costs_what_is_sent_until_it_runs_again(
    client: TestClient, host: HostProcess, wait_until: Callable[..., None]
) -> None:
    body = {"model": "raw_pixels", "input": RED}
    before = client.post("/v1/embeddings", json=body).json()["data"]
    host.kill()
    answer = client.post("/v1/embeddings", json=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "model_host_down")
    host.start()
    wait_until(lambda: host.answers, what="the model host answers")
    assert client.post("/v1/embeddings", json=body).json()["data"] == before


def test_ready_and_models_say_what_the_hosts_have_loaded(
    client: TestClient, queue: JobQueue, wait_until: Callable[..., None]
) -> None:
    assert client.post("/predictions/raw_pixels", content=RED_PNG).status_code == 200
    wait_until(lambda: client.get("/models/raw_pixels").json()["loaded"])
    loaded = {model["name"]: model["loaded"] for model in client.get("/models").json()["models"]}
    assert loaded["raw_pixels"]
    assert not loaded["tf_efficientnet_lite0"]
    ready = client.get("/readyz").json()
    assert ready["hosts"]["torch"] == "ok"
    assert "extractor host --backend tfserving" in ready["hosts"]["tfserving"]
    # A host runs no job.
    assert not ready["ready"]
    queue.beat("worker", ["extract:torch"])
    assert client.get("/readyz").json()["ready"]
    assert (client.get("/ping").status_code, client.get("/ping").json()) == (200, {"status": "Healthy"})


class TestOpenAI:
    """The official client."""

    @pytest.fixture
    def openai_client(self, address: str) -> Iterator[openai.OpenAI]:
        with openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0) as client:
            yield client

    def test_it_embeds(self, openai_client: openai.OpenAI) -> None:
        # It asks for base64 by itself, and makes floats of it.
        plain = openai_client.embeddings.create(model="raw_pixels", input=[RED, BLUE])
        floats = openai_client.embeddings.create(model="raw_pixels", input=[RED, BLUE], encoding_format="float")
        assert [row.embedding for row in plain.data] == [row.embedding for row in floats.data]
        assert [row.index for row in plain.data] == [0, 1]
        assert plain.data[1].embedding[:3] == [0.0, 0.0, 1.0]
        encoded = openai_client.embeddings.create(model="raw_pixels", input=RED, encoding_format="base64")
        text: Any = encoded.data[0].embedding
        assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == plain.data[0].embedding

    def test_it_is_told_what_is_wrong(self, openai_client: openai.OpenAI) -> None:
        with pytest.raises(openai.UnprocessableEntityError, match="dimensions: Unknown field") as caught:
            openai_client.embeddings.create(model="raw_pixels", input=RED, dimensions=7)
        assert caught.value.code == "unknown_field"
        with pytest.raises(openai.UnprocessableEntityError, match="not a data URI"):
            openai_client.embeddings.create(model="raw_pixels", input="a cat")

    def test_it_lists_models(self, openai_client: openai.OpenAI) -> None:
        models = {model.id: model for model in openai_client.models.list()}
        assert {"raw_pixels", "tf_efficientnet_lite0"} <= set(models)
        assert (models["raw_pixels"].object, models["raw_pixels"].created) == ("model", 0)
        assert models["tf_efficientnet_lite0"].created > 0
        assert openai_client.models.retrieve("tf_efficientnet_lite0") == models["tf_efficientnet_lite0"]
        assert openai_client.models.retrieve("timm:resnet18.a1_in1k").id == "timm:resnet18.a1_in1k"
        with pytest.raises(openai.NotFoundError, match="nothing"):
            openai_client.models.retrieve("nothing")


def test_models_without_weights_are_not_offered(client: TestClient, host: HostProcess) -> None:
    offered = {model["id"] for model in client.get("/v1/models").json()["data"]}
    models = client.get("/models").json()["models"]
    assert offered == {model["name"] for model in models if model["readiness"] != "needs_file"}
    assert len(offered) < len(models)


class TestPredictions:
    """TorchServe's route."""

    @pytest.mark.parametrize(
        "kind", [None, "image/png", "application/octet-stream", "application/x-www-form-urlencoded", "text/plain"]
    )
    def test_the_body_is_an_image_whatever_it_is_called(self, client: TestClient, kind: str | None) -> None:
        headers = {"Content-Type": kind} if kind else {}
        answer = client.post("/predictions/raw_pixels", content=BLUE_PNG, headers=headers)
        assert (answer.status_code, len(answer.json()), answer.json()[:3]) == (200, 3072, [0.0, 0.0, 1.0])
        assert len(answer.headers["X-Shoal-Model-Digest"]) == 64

    def test_an_image_may_be_larger_than_other_bodies(self, alone: TestClient, settings: Settings) -> None:
        # Refused by the host that is not there, and not for its size.
        body = b"\xff\xd8" + b"\0" * (settings.max_body_bytes + 1)
        assert alone.post("/predictions/raw_pixels", content=body).json()["code"] == "model_host_down"
        assert alone.post("/models/predictions/", content=body).json()["code"] == "body_too_large"

    @pytest.mark.parametrize("name", ["data", "body"])
    def test_a_form_with_one_file_is_read(self, client: TestClient, name: str) -> None:
        answer = client.post("/predictions/raw_pixels", files={name: ("é \r\n.png", BLUE_PNG, "image/png")})
        assert answer.json()[:3] == [0.0, 0.0, 1.0], answer.text

    def test_other_forms_and_json_are_refused_with_the_right_command(self, alone: TestClient) -> None:
        forms: list[dict[str, Any]] = [{"image": RED_PNG}, {"data": RED_PNG, "body": RED_PNG}]
        answers = [alone.post("/predictions/raw_pixels", files=form) for form in forms]
        answers.append(alone.post("/predictions/raw_pixels", json={"instances": []}))
        for answer in answers:
            assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
            assert "`curl --data-binary @IMAGE http://testserver/predictions/raw_pixels`" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            (b"", 422, "invalid_request"),
            (b"just text", 422, "image_unrecognised"),
            (b"\0" * (33 << 20), 413, "body_too_large"),
        ],
    )
    def test_what_is_no_image_is_refused(self, client: TestClient, body: bytes, status: int, code: str) -> None:
        answer = client.post("/predictions/raw_pixels", content=body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)

    def test_any_name_of_a_model_may_be_in_the_path(self, client: TestClient, host: HostProcess) -> None:
        catalogue = (
            '[models."mine/b"]\narchitecture = "pixels"\nweights = "none"\n'
            "transform = {size = 32, mean = [0.0, 0.0, 0.0], std = [1.0, 1.0, 1.0]}\n"
        )
        (host.settings.models / "catalogue.toml").write_text(catalogue)
        try:
            assert client.post("/predictions/mine/b", content=BLUE_PNG).json()[:3] == [0.0, 0.0, 1.0]
        finally:
            (host.settings.models / "catalogue.toml").unlink()
        missing = client.post("/predictions/nothing", content=RED_PNG)
        assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")
        absent = client.post("/predictions/timm:resnet18.a1_in1k", content=RED_PNG)
        assert (absent.status_code, absent.json()["code"]) == (500, "weights_missing")

    def test_a_page_of_another_site_cannot_send_an_image(self, client: TestClient) -> None:
        send = {"url": "/predictions/raw_pixels", "content": RED_PNG}
        for origin in (
            "https://evil.example",
            "null",
            "http://[",
            "http://testserver.evil.example",
            "http://localhost:9999",
        ):
            answer = client.post(**send, headers={"Origin": origin})  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert client.post(**send, headers={"Origin": "http://testserver"}).is_success  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "body",
    [
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\nimage',
        b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\nimage\r\n--b',
        b'--b\r\nContent-Disposition: form-data; name="other"; filename="name=data"\r\n\r\nimage\r\n--b--\r\n',
        b'--b\r\nX-Other: form-data; name="data"\r\n\r\nimage\r\n--b--\r\n',
        b"--b--\r\n",
        b"",
    ],
)
def test_a_broken_form_holds_no_image(body: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        image_of(body, "multipart/form-data; boundary=b", "URL")
    with pytest.raises(UnsupportedMediaType):
        image_of(body, "multipart/form-data", "URL")


def test_a_form_may_hold_lines_that_look_like_its_edge() -> None:
    image = b"\r\n--c\r\n\r\n--bb"
    form = b'--b\r\ncontent-disposition: form-data; name=body; filename="x"\r\n\r\n' + image + b"\r\n--b--\r\n"
    assert image_of(form, 'multipart/form-data; boundary="b"', "URL") == image


def test_jobs_that_an_older_version_left_are_cancelled(app: FastAPI, queue: JobQueue) -> None:
    left = [queue.submit(f"embed:{backend}", {"n": 1})[0].id for backend in ("torch", "torch", "tfserving")]
    claim = queue.claim(["embed:torch"], "gone")
    assert claim is not None
    kept = queue.submit("extract:torch", {"n": 1})[0].id
    with TestClient(app):
        pass
    states = {job.id: (job.state, job.cancel_requested) for job in queue.list().jobs}
    assert states.pop(kept) == ("queued", False)
    assert states.pop(claim.job.id) == ("running", True)
    assert set(states.values()) == {("cancelled", False)} or {state for state, _ in states.values()} == {"cancelled"}
    assert set(states) < set(left)


def test_a_client_that_leaves_gives_up_its_request(
    app: FastAPI, address: str, host: HostProcess, wait_until: Callable[..., None]
) -> None:
    assert host.process is not None
    hosts = app.state.hosts._hosts["torch"]
    host.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/predictions/raw_pixels", content=RED_PNG, timeout=0.3)
        wait_until(lambda: hosts._in_flight == 0, deadline_s=20, what="the request is given up")
    finally:
        host.process.send_signal(signal.SIGCONT)
