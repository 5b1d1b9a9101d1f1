"""Real networks of PyTorch in a host: the bits of bulk extraction, swapped weights, memory that is given back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import pytest
import torch
from extractor import pipeline
from extractor.models import architectures, clip
from extractor.online.wire import DIGEST
from numpy.typing import NDArray
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

from tests.extractor.online.conftest import HostProcess, host_starter, photo, vectors_of

LIMIT = 400 * 2**20
WaitUntil = Callable[..., None]
IMAGES = 24


def resnet(seed: int) -> dict[str, Any]:
    """A small network with random weights."""
    return {"architecture": "resnet18", "weights": "random", "seed": seed, "transform": {"size": 64}}


@pytest.fixture(scope="module")
def host(wait_until: WaitUntil) -> Iterator[HostProcess]:
    """A host with room for about three of these networks."""
    with host_starter(wait_until) as start:
        yield start(SHOAL_ONLINE_MEMORY=str(LIMIT), IMPORT_LIBRARIES="1")


def extracted(root: Path, model: object) -> tuple[NDArray[np.float32], EmbeddingSet]:
    """The embeddings of a job over the photos, in the order of their seeds."""
    folder = root / "data" / "set"
    folder.mkdir(exist_ok=True)
    for seed in range(IMAGES):
        (folder / f"{seed:02}.png").write_bytes(photo(seed))
    settings = Settings(
        data=root / "data", models=root / "models", store=root / "store", device="cpu", offline=True, decode_workers=1
    )
    request = {"images": {"path": "set"}, "model": model, "batch_size": 16, "thumbnails": False}
    result = pipeline.run(JobContext.local(request, kind="extract:torch"), settings)
    embeddings = Store(settings.store).embeddings(str(result["embeddings"]))
    return np.concatenate([block for _, block in embeddings.iter_batches()]), embeddings


@pytest.mark.parametrize("model", [resnet(0), "tf_efficientnet_lite0", "raw_pixels"], ids=["resnet", "lite0", "pixels"])
def test_new_images_have_the_bits_of_a_job_alone_and_in_any_batch(model: object, host: HostProcess) -> None:
    expected, embeddings = extracted(host.root, model)
    alone = [host.begin([photo(seed)], model) for seed in range(IMAGES)]
    together = host.ask([photo(seed) for seed in range(IMAGES)], model)
    np.testing.assert_array_equal(vectors_of(together), expected)
    for seed, answer in enumerate(alone):
        np.testing.assert_array_equal(vectors_of(answer.result())[0], expected[seed])
    assert together.headers[DIGEST] == embeddings.plan.model.digest


def test_texts_are_embedded_into_the_space_of_the_images(host: HostProcess) -> None:
    network = clip.build("ViT-S-32-alt")
    torch.save(network.state_dict(), host.root / "models" / "clip.pt")
    model = {"architecture": "open_clip:ViT-S-32-alt", "weights": "clip.pt"}
    texts = ["a photo of a duck", "ein rotes Schiff", "x" * 900]
    found = host.ask([text.encode() for text in texts], model, kind="texts")
    with torch.inference_mode():
        expected = network.eval().encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(texts)).numpy()
    np.testing.assert_allclose(vectors_of(found), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        vectors_of(host.ask([texts[1].encode()], model, kind="texts"))[0], vectors_of(found)[1]
    )
    image = host.ask([photo(0)], model)
    assert vectors_of(image).shape == (1, 256)
    assert image.headers[DIGEST] == found.headers[DIGEST]
    for other, text, refused in ((resnet(0), b"duck", "embeds images only"), (model, b"\xff", "not UTF-8")):
        answer = host.ask([text], other, kind="texts")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert refused in answer.json()["detail"]


def test_swapped_weights_are_loaded_and_no_answer_mixes_them(host: HostProcess, wait_until: WaitUntil) -> None:
    model = {"architecture": "resnet18", "weights": "net.pth", "transform": {"size": 64}}
    file = host.root / "models" / "net.pth"
    expected = [host.vectors([photo(0)], resnet(seed)) for seed in (1, 2)]
    save(file, seed=1)
    answers: list[tuple[str, NDArray[np.float32]]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answer = host.ask([photo(0)], model)
            answers.append((answer.headers[DIGEST], vectors_of(answer)))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_until(lambda: answers or not asking.is_alive())
        save(file, seed=2)
        wait_until(lambda: len({digest for digest, _ in answers}) == 2 or not asking.is_alive())
    finally:
        stop.set()
        asking.join()
    digests = list(dict.fromkeys(digest for digest, _ in answers))
    assert len(digests) == 2
    for digest, vectors in answers:
        np.testing.assert_array_equal(vectors, expected[digests.index(digest)])
    assert len([row for row in host.models() if row == "resnet18-net"]) == 1


def save(file: Path, seed: int) -> None:
    """Replace a checkpoint by one with the weights of ``resnet(seed)``."""
    network = architectures.build("resnet18", size=64, seed=seed)
    torch.save(network.state_dict(), file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def test_many_models_stay_within_the_memory_that_they_may_take(host: HostProcess) -> None:
    host.forget()
    process = psutil.Process(host.process.pid)
    for seed in range(10, 16):
        host.vectors([photo(0)], resnet(seed))
    rows = host.http.get("/models").json()["models"]
    loaded = [row for row in rows if row["state"] == "loaded"]
    assert sum(row["bytes"] for row in rows) <= LIMIT
    assert "resnet18-random15" in {row["name"] for row in loaded}
    assert "resnet18-random10" not in {row["name"] for row in loaded}
    assert host.metric("shoal_online_evictions_total", reason="memory") >= 1
    assert len(process.children()) == len(rows)
    before = process.memory_info().rss
    for seed in range(16, 20):
        host.vectors([photo(0)], resnet(seed))
    assert process.memory_info().rss < before + LIMIT / 2  # All four would take more.
