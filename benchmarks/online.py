"""Images answered within a request, beside the parts that they cannot do without and beside peers.

Starts the whole of Shoal on loopback and sends it synthetic photographs (JPEG, 500 x 375), one a request. Per model:

- one client: the time of a request, by both routes, beside the network's and the decoder's own for one image;
- many clients: requests per second beside the rate at which an extraction embeds images, and the mean batch;
- one client beside a running extraction;
- the same load on FastAPI with timm, which takes one image after another, and on LitServe where it is installed.

    python benchmarks/online.py [--models tf_efficientnet_lite0 resnet50_random] [--clients 32] [--seconds 20] [--json]

`resnet50_random` is ResNet-50 with seeded random weights, which cost as much as trained ones.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from _common import finish, parser
from _load import Post, for_seconds, one_by_one
from extract import whole, write_photographs
from extractor.backends.loading import open_backend, record_of
from extractor.images.decode import decode_image
from extractor.images.preprocess import network_input
from extractor.models import catalogue
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from shoal import Client
from shoal.embedded import Stack
from shoal.process import free_port, spawn
from shoal.settings import Settings

OVERHEAD_MS, RATIO, BATCH = 10.0, 0.8, 8.0
"""The targets: the most that a request adds, the least share of the bulk rate, the least mean batch."""
CATALOGUE = """[models.resnet50_random]
timm = "resnet50"
weights = "random"
seed = 0
"""
TIMM_NAMES = {"resnet50_random": "resnet50"}
START_S = 300.0
MOST_PIXELS = 10**7


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", default=["tf_efficientnet_lite0", "resnet50_random"])
    options.add_argument("--clients", type=int, default=32, help="clients at once (%(default)s)")
    options.add_argument("--seconds", type=float, default=20.0, help="of each load (%(default)s)")
    options.add_argument("--singles", type=int, default=200, help="requests of the one client (%(default)s)")
    options.add_argument("--images", type=int, default=384, help="images of the extraction (%(default)s)")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-online-") as temporary:
        root = Path(temporary)
        (root / "models").mkdir()
        (root / "models" / "catalogue.toml").write_text(CATALOGUE)
        settings = Settings(data=root / "data", models=root / "models", store=root / "bulk")
        paths = write_photographs(root / "data" / "set", chosen.images)
        link_more(root / "data", paths)
        images = [(root / "data" / "set" / path).read_bytes() for path in paths[:32]]
        models = {}
        for model in chosen.models:
            print(f"{model}")
            models[model] = measured(model, settings, images, chosen)
    result = {
        "benchmark": "online",
        "clients": chosen.clients,
        "seconds": chosen.seconds,
        "models": models,
        "reached": all(all(found["reached"].values()) for found in models.values()),
    }
    finish(result, as_json=chosen.json)


def link_more(data: Path, paths: list[str]) -> None:
    """A set of the same images, long enough to keep a worker busy."""
    for turn in range(40):
        for path in paths:
            link = data / "long" / str(turn) / path
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(data / "set" / path, link)


def measured(model: str, settings: Settings, images: list[bytes], chosen: Any) -> dict[str, Any]:
    """All that is measured of one model."""
    found: dict[str, Any] = {"single": {}, "many": {}}
    alone = [parts(model, settings, images)]
    found["bulk_per_s"] = [bulk_rate(model, settings, chosen.images, "before")]
    with running(settings) as stack:
        url = stack.extractor_url
        routes = {
            "embeddings": [Post.embeddings(url, model, image) for image in images],
            "predictions": [Post(f"{url}/predictions/{model}", image) for image in images],
        }
        found["load_s"] = first_answer(routes["predictions"][0])
        one_by_one(routes["embeddings"][0], 20)
        until_idle()
        # A machine's speed changes within minutes: what is compared is measured in turn.
        for name, posts in routes.items():
            found["single"][name] = one_by_one(posts[0], chosen.singles).summary()
            alone.append(parts(model, settings, images))
        found["parts"] = {key: statistics.median(each[key] for each in alone) for key in alone[0]}
        for name, posts in routes.items():
            before = batches(stack, model)
            found["many"][name] = for_seconds(posts, chosen.clients, chosen.seconds).summary()
            count, total = (now - then for now, then in zip(batches(stack, model), before, strict=True))
            found["many"][name]["mean_batch"] = round(total / count, 1)
            found["bulk_per_s"].append(bulk_rate(model, settings, chosen.images, f"after-{name}"))
        found["beside_extraction"] = beside_extraction(stack, model, routes["predictions"][0], chosen.seconds)
    found["peers"] = peers(model, images, chosen)
    return judged(found)


def judged(found: dict[str, Any]) -> dict[str, Any]:
    """What was measured, with the overhead, the ratio and whether they reach the targets; printed."""
    own = found["parts"]["network_ms"] + found["parts"]["decode_ms"]
    found["overhead_ms"] = {name: round(seen["p50_ms"] - own, 2) for name, seen in found["single"].items()}
    bulk = statistics.median(found["bulk_per_s"])
    found["ratio_to_bulk"] = {name: round(seen["per_s"] / bulk, 3) for name, seen in found["many"].items()}
    found["reached"] = {
        "overhead": max(found["overhead_ms"].values()) <= OVERHEAD_MS,
        "ratio": min(found["ratio_to_bulk"].values()) >= RATIO,
        "batch": min(seen["mean_batch"] for seen in found["many"].values()) > BATCH,
    }
    print(f"  one image: network {found['parts']['network_ms']} ms, decoding {found['parts']['decode_ms']} ms")
    for name, seen in found["single"].items():
        print(f"  one client, {name:11}  {line(seen)}  overhead {found['overhead_ms'][name]} ms")
    for name, seen in found["many"].items():
        ratio = found["ratio_to_bulk"][name]
        print(f"  many clients, {name:11}  {line(seen)}  mean batch {seen['mean_batch']}  {ratio} of bulk")
    print(f"  bulk, in turn with these: {found['bulk_per_s']} images/s")
    print(f"  one client beside an extraction  {line(found['beside_extraction'])}")
    for name, peer in found["peers"].items():
        print(f"  {name:8}  one client {line(peer['single'])}; many {line(peer['many'])}")
    print(f"  reached: {found['reached']}")
    return found


def line(seen: dict[str, float]) -> str:
    """A summary on one line."""
    shown = ("per_s", "p50_ms", "p99_ms", "failed")
    return "  ".join(f"{name} {seen[name]:g}" for name in shown if name != "failed" or seen[name])


def parts(model: str, settings: Settings, images: list[bytes]) -> dict[str, float]:
    """Milliseconds of one image, in this process: the network of the same backend, and decoding. Medians."""
    spec = catalogue.resolve(model, settings.models, settings=settings)
    backend = open_backend(spec, settings, record_of(spec, settings))
    try:

        def decode(number: int) -> NDArray[np.uint8]:
            image = decode_image(images[number], max_pixels=MOST_PIXELS)
            return network_input(image, spec.transform, max_pixels=MOST_PIXELS)

        pixels = np.stack([decode(number) for number in range(len(images))])
        return {
            "network_ms": median_ms(lambda number: backend.submit(pixels[number : number + 1]).result(), len(images)),
            "decode_ms": median_ms(decode, len(images)),
        }
    finally:
        backend.close()


def median_ms(work: Callable[[int], object], count: int, turns: int = 4) -> float:
    """The median time of ``work(0)``, ``work(1)``, …"""
    seconds = []
    for number in list(range(count)) * turns:
        start = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - start)
    return round(statistics.median(seconds[count:]) * 1000, 2)


def bulk_rate(model: str, settings: Settings, count: int, store: str) -> float:
    """Images per second of an extraction's embedding stage."""
    own = settings.model_copy(update={"store": settings.store / f"{model}-{store}"})
    return round(count / whole(own, model, 64, engine="eager")[0], 1)


@contextmanager
def running(settings: Settings) -> Iterator[Stack]:
    """All processes of Shoal, and their ends."""
    with tempfile.TemporaryDirectory(prefix="shoal-online-store-") as store:
        stack = Stack(settings.data, settings.models, Path(store), 0, 0, hosts=True)
        stack.start()
        try:
            yield stack
        finally:
            stack.stop()


def first_answer(post: Post, alive: Callable[[], bool] = lambda: True) -> float:
    """Seconds until the server has started, loaded the model and answered."""
    start = time.monotonic()
    while time.monotonic() < start + START_S and alive():
        if one_by_one(post, 1).statuses["200"]:
            return round(time.monotonic() - start, 1)
        time.sleep(0.1)
    raise SystemExit(f"{post.url} ended, or did not answer within {START_S:.0f} s.")


def until_idle() -> None:
    """Wait until the processes that were started compute nothing: workers import libraries ahead of their first job."""
    processes = psutil.Process().children(recursive=True)
    deadline = time.monotonic() + START_S
    while True:
        before = [process.cpu_times() for process in processes]
        time.sleep(1)
        after = [process.cpu_times() for process in processes]
        if sum(now.user + now.system - then.user - then.system for now, then in zip(after, before, strict=True)) < 0.1:
            return
        if time.monotonic() > deadline:
            raise SystemExit(f"The processes of Shoal are not idle after {START_S:.0f} s.")


def batches(stack: Stack, model: str) -> tuple[float, float]:
    """How many batches of a model there were so far, and of how many images, from the host's metrics."""
    transport = httpx.HTTPTransport(uds=str(Path(stack.env["SHOAL_ONLINE"]) / "torch.sock"))
    with httpx.Client(transport=transport, base_url="http://host") as http:
        text = http.get("/metrics").text
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("model") == model and "le" not in sample.labels
    }
    return samples.get("shoal_online_batch_images_count", 0.0), samples.get("shoal_online_batch_images_sum", 0.0)


def beside_extraction(stack: Stack, model: str, post: Post, seconds: float) -> dict[str, float]:
    """One client while a worker extracts, and the rate of the extraction."""
    with Client(stack.extractor_url, stack.clusterer_url) as client:
        job = client.extract("long", model=model, labels="none", batch_size=64, thumbnails=False, reuse=None)
        submitted = time.monotonic()
        while (begun := embedded(client, job.id)) is None:
            if time.monotonic() > submitted + START_S:
                raise SystemExit(f"The extraction embedded nothing within {START_S:.0f} s: the machine is busy.")
            time.sleep(0.2)
        start = time.monotonic()
        seen = for_seconds([post], 1, seconds).summary()
        ended = embedded(client, job.id)
        lasted = time.monotonic() - start
        if ended is None:
            raise SystemExit("The extraction ended too early: it has too few images.")
        client.cancel(job.id)
        for _ in client.follow(job):
            pass
    return {**seen, "extraction_per_s": round((ended - begun) / lasted, 1)}


def embedded(client: Client, job_id: str) -> int | None:
    """How many images an extraction has embedded; None before the first, and after its end."""
    job = client.job(job_id)
    if job.state.terminal:
        raise SystemExit(f"The extraction ended: {job.error or job.state}.")
    at = job.progress
    return at.done if at is not None and at.stage == "embed" and at.done else None


def peers(model: str, images: list[bytes], chosen: Any) -> dict[str, Any]:
    """The same load on what one writes without Shoal."""
    found = {}
    for name in ("fastapi", "litserve"):
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed: skipped")
            continue
        with peer(name, TIMM_NAMES.get(model, model)) as (url, alive):
            posts = [_peer_post(name, url, image) for image in images]
            first_answer(posts[0], alive)
            one_by_one(posts[0], 10)
            single = one_by_one(posts[0], chosen.singles).summary()
            many = for_seconds(posts, chosen.clients, chosen.seconds).summary()
        found[name] = {"single": single, "many": many}
    return found


def _peer_post(name: str, url: str, image: bytes) -> Post:
    if name == "fastapi":
        return Post(f"{url}/predict", image)
    body = json.dumps({"image": base64.b64encode(image).decode()}).encode()
    return Post(f"{url}/predict", body, "application/json")


@contextmanager
def peer(name: str, timm_name: str) -> Iterator[tuple[str, Callable[[], bool]]]:
    """The address of a running peer, and whether it still runs."""
    port = free_port()
    command = [sys.executable, str(Path(__file__).parent / "_peers.py"), name, timm_name, str(port)]
    process = spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, death_signal=signal.SIGKILL)
    try:
        yield f"http://127.0.0.1:{port}", lambda: process.poll() is None
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)  # Processes of its own that outlive it.


if __name__ == "__main__":
    main()
