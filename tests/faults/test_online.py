"""New images while an extraction runs: the weights are replaced, the model host is killed; every answer stays right.

Prints what happened (`pytest -s`). SHOAL_FAULT_CLIENTS (8) clients send requests; each of the three phases lasts
SHOAL_FAULT_SECONDS / 3 (0) or longer, until every client has seen enough.
"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import timm
import torch
from extractor.backends.loading import open_backend, record_of
from extractor.images.decode import decode_image
from extractor.images.preprocess import network_input
from extractor.models import catalogue
from extractor.online import wire
from extractor.online.models import LOOK_S
from numpy.typing import NDArray
from PIL import Image
from shoal import Client
from shoal.embedded import Stack
from shoal.errors import JobFinished
from shoal.settings import Settings

from tests.conftest import WaitUntil

CLIENTS = int(os.environ.get("SHOAL_FAULT_CLIENTS", "8"))
SECONDS = float(os.environ.get("SHOAL_FAULT_SECONDS", "0"))
IMAGES = 12
MODEL = "ours"
CATALOGUE = """
[models.ours]
architecture = "resnet18"
file = "ours.pth"
transform = {size = 64}

[models.other]
architecture = "resnet18"
weights = "random"
transform = {size = 64}
"""
DEADLINE_S = 240.0
RETRY_S = 0.05
GROWTH = 1.25
"""How much a process may grow once it has been in use for a while."""
SLACK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes
    ----------
    weights
        Whose embeddings it holds: ``old``, ``new``, or ``wrong`` when they are of neither; empty for an error.
    """

    began: float
    ended: float
    status: int
    code: str = ""
    weights: str = ""


@dataclass
class Watch:
    """All answers, by client."""

    answers: list[list[Answer]] = field(default_factory=lambda: [[] for _ in range(CLIENTS)])

    def all(self) -> list[Answer]:
        """Every answer."""
        return [answer for each in self.answers for answer in each]

    def count(self) -> dict[str, int]:
        """How many answers there are of each kind."""
        return dict(Counter(answer.weights or answer.code for answer in self.all()))

    def each_has(self, count: int, weights: str, since: float = 0.0) -> bool:
        """Whether every client's last ``count`` answers are of these weights, and were asked for after ``since``."""
        return all(
            len(each) >= count and all(answer.weights == weights and answer.began > since for answer in each[-count:])
            for each in self.answers
        )


@dataclass(frozen=True)
class Weights:
    """A file of weights, and what the model makes of the images with it.

    Attributes
    ----------
    file
        Its bytes.
    digest
        Of the model's record.
    vectors
        ``(n, dim)``, each of one image alone.
    """

    file: bytes
    digest: str
    vectors: NDArray[np.float32]


def replace_weights(models: Path, content: bytes) -> None:
    """Replace the file of the model's weights, as a careful program does."""
    part = models / "ours.part"
    part.write_bytes(content)
    part.replace(models / "ours.pth")


def weights_of(seed: int, settings: Settings, images: list[bytes]) -> Weights:
    """Random weights, which stay in place, and what the engine of an extraction makes of ``images`` with them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model("resnet18", pretrained=False)
    file = BytesIO()
    torch.save(network.state_dict(), file)
    replace_weights(settings.models, file.getvalue())
    digest, vectors = embeddings(settings, images)
    return Weights(file.getvalue(), digest, vectors)


def embeddings(settings: Settings, images: list[bytes]) -> tuple[str, NDArray[np.float32]]:
    """The digest of the model as its weights are now, and what it makes of each image alone."""
    spec = catalogue.resolve(MODEL, settings.models, settings=settings)
    backend = open_backend(spec, settings, record_of(spec, settings))
    try:
        pixels = np.stack(
            [network_input(decode_image(image, max_pixels=10**6), spec.transform, max_pixels=10**6) for image in images]
        )
        rows = [backend.submit(pixels[at : at + 1]).result() for at in range(len(images))]
        return backend.record.digest, np.concatenate(rows)
    finally:
        backend.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Images in many folders, and a catalogue of two models."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        folder = tmp_path / "data" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (80, 96, 3), np.uint8)).save(folder / f"{number:02}.png")
    for turn in range(400 + round(100 * SECONDS)):
        folder = tmp_path / "data" / "long" / f"{turn:04}"
        folder.mkdir(parents=True)
        for path in (tmp_path / "data" / "images").iterdir():
            os.link(path, folder / path.name)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "catalogue.toml").write_text(CATALOGUE)
    return Settings(data=tmp_path / "data", models=tmp_path / "models", store=tmp_path / "store")


@pytest.fixture
def images(settings: Settings) -> list[bytes]:
    """The images that clients send."""
    return [path.read_bytes() for path in sorted((settings.data / "images").iterdir())]


@pytest.fixture
def known(settings: Settings, images: list[bytes]) -> dict[str, Weights]:
    """Two sets of weights; the old one is in place."""
    new = weights_of(1, settings, images)
    return {"new": new, "old": weights_of(0, settings, images)}


class OneService(Stack):
    """The extractor alone, with PyTorch."""

    def _commands(self) -> Iterator[tuple[str, list[str]]]:
        for name, command in super()._commands():
            if name in {"extractor-api", "extractor-torch-worker", "extractor-torch-host"}:
                yield name, command

    def _is_ready(self, http: httpx.Client, name: str, url: str) -> bool:
        return name == "clusterer" or super()._is_ready(http, name, url)


@pytest.fixture
def stack(settings: Settings, known: dict[str, Weights]) -> Iterator[Stack]:
    """`shoal up`, which starts a killed host again."""
    running = OneService(settings.data, settings.models, settings.store, 0, 0, hosts=True)
    stopping = threading.Event()
    watching = threading.Thread(target=running.supervise, args=(lambda process, pause_s: None, stopping.is_set))
    running.start()
    watching.start()
    try:
        yield running
    finally:
        stopping.set()
        watching.join()
        running.stop()


@contextmanager
def extracting(stack: Stack) -> Iterator[Client]:
    """An extraction that runs for as long as the context does."""
    with Client(stack.extractor_url, stack.clusterer_url) as client:
        job = client.extract("long", model="other", labels="none", name="faults", dtype="float32", reuse=None)
        try:
            for current in client.follow(job):
                if current.state == "running":
                    break
            yield client
            assert client.job(job.id).state == "running", "the extraction ended too early: link more images"
        finally:
            with suppress(JobFinished):  # What went wrong before is the error.
                client.cancel(job.id)


class Clients:
    """Clients in a thread of their own, which send one to four images a request until they are stopped."""

    def __init__(self, url: str, images: list[bytes], known: dict[str, Weights]) -> None:
        self.watch = Watch()
        self._url = url
        self._uris = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in images]
        self._known = known
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._one(number))

    async def _one(self, number: int) -> None:
        rng = np.random.default_rng(number)
        async with httpx.AsyncClient(base_url=self._url, timeout=DEADLINE_S, trust_env=False) as http:
            while not self._stop.is_set():
                chosen = rng.choice(IMAGES, rng.integers(1, 5), replace=False).tolist()
                body = {"model": MODEL, "input": [self._uris[at] for at in chosen], "encoding_format": "base64"}
                began = time.monotonic()
                answer = await http.post("/v1/embeddings", json=body)
                ended = time.monotonic()
                self.watch.answers[number].append(Answer(began, ended, *self._judged(answer, chosen)))
                if answer.is_error:
                    await asyncio.sleep(RETRY_S)

    def _judged(self, answer: httpx.Response, chosen: list[int]) -> tuple[int, str, str]:
        if answer.is_error:
            return answer.status_code, answer.json()["code"], ""
        rows = [base64.b64decode(row["embedding"]) for row in answer.json()["data"]]
        for name, weights in self._known.items():
            right = [weights.vectors[at].tobytes() for at in chosen]
            if rows == right and answer.headers[wire.DIGEST] == weights.digest:
                return 200, "", name
        return 200, "", "wrong"


def host_of(stack: Stack) -> psutil.Process:
    """The process of the model host."""
    running = next(process for process in stack.processes if process.name == "extractor-torch-host")
    assert running.popen is not None
    return psutil.Process(running.popen.pid)


def memory(stack: Stack) -> dict[str, int]:
    """Bytes in memory of the host, with its decode processes, and of the extractor's API."""
    api = next(process.popen for process in stack.processes if process.name == "extractor-api")
    assert api is not None
    found = {"host": host_of(stack), "api": psutil.Process(api.pid)}
    return {
        name: sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
        for name, process in found.items()
    }


@pytest.mark.timeout(900)
def test_every_answer_is_right_while_weights_are_replaced_and_the_host_is_killed(
    settings: Settings, stack: Stack, images: list[bytes], known: dict[str, Weights], wait_until: WaitUntil
) -> None:
    """Fails without: the look at the weights before a request, and without: 503 for a host that has gone."""

    def last(condition: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + SECONDS / 3
        wait_until(lambda: time.monotonic() >= end and condition(), deadline_s=SECONDS + DEADLINE_S, what=what)
        sys.stdout.write(f"\n{what}: {clients.watch.count()}")

    with extracting(stack), Clients(stack.extractor_url, images, known) as clients:
        watch = clients.watch
        last(lambda: watch.each_has(3, "old"), "answers of the old weights")
        used = [memory(stack)]

        replace_weights(settings.models, known["new"].file)
        replaced_at = time.monotonic()
        last(lambda: watch.each_has(3, "new", replaced_at), "answers of the new weights")
        used.append(memory(stack))

        killed = host_of(stack)
        killed_at = time.monotonic()
        killed.kill()
        wait_until(lambda: watch.each_has(1, "new", killed_at), deadline_s=DEADLINE_S, what="a host that answers")
        used.append(memory(stack))
        last(lambda: watch.each_has(4, "new", killed_at), "answers of another host")
        used.append(memory(stack))

    answers = watch.all()
    recovered_at = min(answer.ended for answer in answers if answer.weights and answer.began > killed_at)
    failed = [answer for answer in answers if answer.status != 200]
    sys.stdout.write(
        f"\n{CLIENTS} clients: {watch.count()}\n"
        f"killed: answered again after {recovered_at - killed_at:.1f} s\n"
        f"MiB in memory: {[{name: size >> 20 for name, size in each.items()} for each in used]}\n"
    )
    assert not [answer for answer in answers if answer.weights == "wrong"]
    assert not [answer for answer in answers if answer.weights == "old" and answer.began > replaced_at + LOOK_S]
    assert {answer.status for answer in failed} <= {503}
    assert not [answer for answer in failed if answer.ended < killed_at or answer.began > recovered_at]
    for before, after in pairwise(used):
        assert all(after[name] < GROWTH * before[name] + SLACK_BYTES for name in before), used
