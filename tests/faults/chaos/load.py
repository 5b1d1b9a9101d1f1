"""A mixed load: requests of every kind, one after another, each repeated under its key until a service has answered."""

from __future__ import annotations

import io
import random
import tarfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
from PIL import Image

from tests.faults.chaos.installation import Installation

FOLDERS, IMAGES, SIDE = 6, 150, 24
GIVE_UP_S = 240.0
"""How long a request is repeated: longer than any fault lasts."""
PAUSE_S = 0.3
SERVICES = {"extract": "extractor"}
MIX = {
    "extract": 5,
    "upload": 2,
    "embed": 3,
    "cluster": 4,
    "sweep": 2,
    "duplicates": 2,
    "quality": 2,
    "search": 3,
    "assign": 2,
}
"""How often each request is sent."""
ONLINE = {"embed", "search"}
MOST_WAITING = 8
"""No further job is submitted while so many wait: a load that is greater than the machine says nothing."""
UPLOADED = 40
"""Images of an upload."""
REFUSED = {404, 409, 422}
"""Answers to a request about something that is not finished, or that another request has just changed."""


def make_images(data: Path, seed: int) -> None:
    """Folders of small images in four colours; each image differs from all others."""
    for number in range(FOLDERS):
        rng = np.random.default_rng([seed, number])
        folder = data / f"set-{number}"
        folder.mkdir(parents=True)
        for each in range(IMAGES):
            base = np.eye(4, 3, dtype=np.int64)[each % 4] * 120 + 40
            noise = rng.integers(0, 60, (SIDE, SIDE, 3))
            Image.fromarray((base + noise).astype(np.uint8)).save(folder / f"{each:04d}.png")


def image(number: int) -> bytes:
    """A PNG file; the same for the same number."""
    noise = np.random.default_rng([99, number]).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="png")
    return file.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    """Files as a tar archive."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


class Sent(NamedTuple):
    """A request for a job, as a service has taken it."""

    key: str
    route: str
    body: dict[str, Any]
    job: str


@dataclass
class Load:
    """Threads that send requests until they are stopped.

    Attributes
    ----------
    sent
        Requests for jobs.
    keys
        Keys of all requests for jobs, answered or not.
    answers
        How many online requests were answered right.
    wrong
        What was answered wrong.
    """

    installation: Installation
    seed: int
    threads: int = 3
    sent: list[Sent] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _running: list[threading.Thread] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _embedded: dict[int, str] = field(default_factory=dict)

    def start(self) -> None:
        """Start the threads."""
        self._running = [threading.Thread(target=self._run, args=(each,)) for each in range(self.threads)]
        for each in self._running:
            each.start()

    def stop(self) -> None:
        """Let each thread end its request."""
        self._stop.set()
        for each in self._running:
            each.join()

    def _run(self, number: int) -> None:
        rng = random.Random(f"{self.seed}-load-{number}")
        with httpx.Client(timeout=15.0) as client:
            while not self._stop.is_set():
                try:
                    self._one(client, rng)
                except Exception as error:
                    self._note(f"the load failed: {type(error).__name__}: {error}")
                self._stop.wait(rng.uniform(0.2, 1.5))

    def _one(self, client: httpx.Client, rng: random.Random) -> None:
        """One request of a kind that what is finished allows."""
        route = rng.choices(list(MIX), list(MIX.values()))[0]
        if route not in ONLINE and self._many_wait(client):
            return
        if route == "upload":
            self._upload(client, rng)
        elif route == "embed":
            self._embed(client, rng.randrange(UPLOADED))
        elif route == "extract":
            self._job(client, rng, route, self._extraction(rng, {"path": f"set-{rng.randrange(FOLDERS)}"}))
        elif sets := self._listed(client, "embeddings", "extractor"):
            which = rng.choice(sets)
            if route == "search":
                self._search(client, which, rng.randrange(UPLOADED // 2))
            elif route != "assign":
                self._job(client, rng, route, self._analysis(rng, route, which))
            elif clusterings := self._listed(client, "clusterings", "clusterer"):
                self._job(client, rng, route, {"clustering": rng.choice(clusterings), "embeddings": which})

    def _extraction(self, rng: random.Random, images: dict[str, str]) -> dict[str, Any]:
        """A few requests only, so that several jobs want the same embeddings."""
        sizes = {"batch_size": 10, "shard_rows": rng.choice([15, 50])}
        # Faults may spoil more of the images than a job takes by default.
        return {"images": images, "model": "raw_pixels", "thumbnails": False, "max_failed_fraction": 1.0, **sizes}

    def _upload(self, client: httpx.Client, rng: random.Random) -> None:
        """Images that are sent, under one key until they have arrived, and then embedded."""
        first = rng.randrange(UPLOADED)
        body = archive({f"{each:03d}.png": image(each) for each in range(first, first + UPLOADED)})
        headers = {"Idempotency-Key": f"{self.seed}-{rng.getrandbits(64):016x}", "Content-Type": "application/x-tar"}
        url = f"{self.installation.url('extractor')}/uploads"
        answer = self._until_answered(client, "POST", url, content=body, headers=headers)
        if answer is None:
            return
        found = answer.json() if answer.is_success else {}
        if not found.get("complete") or found["images"] != UPLOADED:
            self._note(f"POST /uploads: {answer.status_code} {answer.text[:300]}")
            return
        self._job(client, rng, "extract", self._extraction(rng, {"upload": found["upload"]}))

    def _embed(self, client: httpx.Client, number: int) -> None:
        """An image has the same embedding whenever it is sent."""
        url = f"{self.installation.url('extractor')}/predictions/raw_pixels"
        answer = self._until_answered(client, "POST", url, content=image(number))
        if answer is None:
            return
        with self._lock:
            first = self._embedded.setdefault(number, answer.text)
            self.answers += 1
        if answer.status_code != httpx.codes.OK or answer.text != first:
            self._note(f"POST /predictions of image {number}: {answer.status_code} {answer.text[:300]}")

    def _analysis(self, rng: random.Random, route: str, which: str) -> dict[str, Any]:
        body: dict[str, Any] = {"embeddings": which}
        if route == "cluster":
            return {**body, "clusters": rng.choice([4, 8]), "seeds": [0, 1], "kmeans": {"iterations": 30}}
        if route == "sweep":
            return {**body, "clusters": [2, 4, 6], "seeds": [0]}
        return {**body, "threshold": 0.999} if route == "duplicates" else {**body, "neighbours": 5}

    def _job(self, client: httpx.Client, rng: random.Random, route: str, body: dict[str, Any]) -> None:
        """Submit a job; the same request under the same key until it is answered."""
        key = f"{self.seed}-{rng.getrandbits(64):016x}"
        with self._lock:
            self.keys.add(key)
        url = f"{self.installation.url(SERVICES.get(route, 'clusterer'))}/{route}"
        answer = self._until_answered(client, "POST", url, json=body, headers={"Idempotency-Key": key})
        if answer is None:
            return
        if answer.status_code == httpx.codes.ACCEPTED:
            with self._lock:
                self.sent.append(Sent(key, route, body, answer.json()["id"]))
        elif answer.status_code not in REFUSED:
            self._note(f"POST /{route} {body}: {answer.status_code} {answer.text[:300]}")

    def _search(self, client: httpx.Client, which: str, row: int) -> None:
        """The nearest rows of a row, nearest first."""
        url = f"{self.installation.url('clusterer')}/search"
        answer = self._until_answered(client, "POST", url, json={"embeddings": which, "row": row, "k": 3})
        if answer is None:
            return
        if answer.status_code != httpx.codes.OK:
            self._note(f"POST /search {which} {row}: {answer.status_code} {answer.text[:300]}")
            return
        similar = [each["similarity"] for each in answer.json()]
        if len(similar) != 3 or similar != sorted(similar, reverse=True):
            self._note(f"POST /search {which} {row}: {answer.text[:300]}")
        with self._lock:
            self.answers += 1

    def _listed(self, client: httpx.Client, what: str, service: str) -> list[str]:
        answer = self._until_answered(client, "GET", f"{self.installation.url(service)}/{what}")
        if answer is None or answer.status_code != httpx.codes.OK:
            return []
        return sorted(each["id"] for each in answer.json()[what] if each.get("complete", True))

    def _many_wait(self, client: httpx.Client) -> bool:
        url = f"{self.installation.url('clusterer')}/jobs?state=queued&limit={MOST_WAITING}"
        answer = self._until_answered(client, "GET", url)
        return answer is None or not answer.is_success or len(answer.json()["jobs"]) >= MOST_WAITING

    def _until_answered(self, client: httpx.Client, method: str, url: str, **options: Any) -> httpx.Response | None:
        """The answer of a service, which may be away for a while; None if the load ends meanwhile."""
        ended = threading.Timer(GIVE_UP_S, self._stop.set)
        ended.daemon = True
        ended.start()
        try:
            while True:
                try:
                    answer = client.request(method, url, **options)
                    if answer.status_code not in {429, 500, 502, 503, 504}:
                        return answer
                    if answer.status_code == 500:
                        self._note(f"{method} {url}: 500 {answer.text[:300]}")
                        return answer
                except httpx.HTTPError:
                    pass
                if self._stop.wait(PAUSE_S):
                    return None
        finally:
            ended.cancel()

    def _note(self, what: str) -> None:
        with self._lock:
            self.wrong.append(what)
