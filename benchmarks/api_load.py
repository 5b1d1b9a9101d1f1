"""Response times of the API with many concurrent clients.

Starts an embedded queue, the extractor's API with keys on, and an idle worker, on loopback alone. Each client does what
`shoal watch` does: it submits a small job, polls it, and submits the next one.

    python benchmarks/api_load.py [--clients 50] [--seconds 60] [--json]
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from _common import finish, parser
from PIL import Image
from shoal.embedded import Stack
from shoal.keys import KeyStore, Scope

TARGET_S = 0.1
POLLS_PER_JOB = 10


class ApiStack(Stack):
    """The extractor's API, and a worker that stays idle because its kind is never submitted."""

    clients = 0
    keys: tuple[str, ...] = ()

    def _start_valkey(self) -> None:
        # An API that asks for keys does not start before there is one.
        super()._start_valkey()
        store = KeyStore.from_url(str(self.redis_url))
        self.keys = tuple(store.create(f"client {number}", Scope.SUBMIT)[1] for number in range(self.clients))
        store.close()

    def _commands(self) -> Iterator[tuple[str, list[str]]]:
        listen = ["--host", self.host, "--port", str(self.extractor_port)]
        yield "extractor-api", ["extractor", "api", *listen]
        yield "clusterer-worker", ["clusterer", "worker"]

    def _wait_ready(self) -> None:
        while True:
            self._refuse_dead()
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.extractor_url}/healthz").is_success:
                    return
            time.sleep(0.1)

    def cpu_s(self) -> float:
        """Processor time that the API has used so far."""
        api = next(process.popen for process in self.processes if process.name == "extractor-api")
        fields = Path(f"/proc/{api.pid if api else 0}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def env(self) -> dict[str, str]:
        """As `shoal up` has it, but with keys."""
        return {**super().env, "SHOAL_AUTH": "required", "SHOAL_MAX_QUEUED": "1000000"}


@dataclass
class Seen:
    """The responses that the clients got."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[str] = field(default_factory=Counter)


async def client(number: int, url: str, key: str, poll_s: float, end: float, seen: Seen) -> None:
    """One client, until ``end`` on the monotonic clock."""
    chance = random.Random(number)
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        await asyncio.sleep(chance.random() * poll_s)
        while time.monotonic() < end:
            body = {"images": {"path": "images"}, "model": "raw_pixels", "name": f"client-{number}"}
            job = await timed(http, "POST /extract", "POST", "/extract", seen, json=body)
            for _ in range(POLLS_PER_JOB):
                if time.monotonic() >= end or job is None:
                    break
                await asyncio.sleep(poll_s * chance.uniform(0.5, 1.5))
                await timed(http, "GET /jobs/{id}", "GET", f"/jobs/{job['id']}", seen)


async def timed(http: httpx.AsyncClient, name: str, method: str, path: str, seen: Seen, **options: Any) -> Any:
    """The answer's body; None after an error, which is counted."""
    start = time.perf_counter()
    try:
        answer = await http.request(method, path, **options)
    except httpx.TransportError as error:
        seen.statuses[f"{name} {type(error).__name__}"] += 1
        return None
    seen.seconds[name].append(time.perf_counter() - start)
    seen.statuses[f"{name} {answer.status_code}"] += 1
    return answer.json() if answer.is_success else None


async def load(url: str, keys: tuple[str, ...], poll_s: float, seconds: float) -> Seen:
    """All clients at once."""
    seen, end = Seen(), time.monotonic() + seconds
    await asyncio.gather(*(client(number, url, key, poll_s, end, seen) for number, key in enumerate(keys)))
    return seen


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    cuts = statistics.quantiles(seconds, n=1000, method="inclusive")
    named = {
        "p50_ms": cuts[499],
        "p95_ms": cuts[949],
        "p99_ms": cuts[989],
        "p999_ms": cuts[998],
        "max_ms": max(seconds),
    }
    return {"n": len(seconds), **{name: round(value * 1000, 2) for name, value in named.items()}}


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--seconds", type=float, default=60.0)
    options.add_argument("--poll-s", type=float, default=0.3, help="pause between two polls of one client")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "data/images").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / "data/images/a.png")
        stack = ApiStack(root / "data", root / "models", root / "store", 0, 0)
        stack.clients = chosen.clients
        stack.start()
        try:
            before = stack.cpu_s()
            seen = asyncio.run(load(stack.extractor_url, stack.keys, chosen.poll_s, chosen.seconds))
            cpu_s = stack.cpu_s() - before
        finally:
            stack.stop()
    routes = {name: summary(seconds) for name, seconds in sorted(seen.seconds.items())}
    errors = {name: count for name, count in seen.statuses.items() if not name.split()[-1].startswith("2")}
    requests = sum(seen.statuses.values())
    print(f"{chosen.clients} clients for {chosen.seconds:g} s: {requests} requests, errors: {errors or 'none'}")
    for name, values in routes.items():
        print(f"{name:<16}", "  ".join(f"{key} {value}" for key, value in values.items()))
    print(f"processor time of the API: {cpu_s / requests * 1000:.2f} ms a request")
    p99 = routes["GET /jobs/{id}"]["p99_ms"]
    result = {
        "benchmark": "api_load",
        "clients": chosen.clients,
        "seconds": chosen.seconds,
        "poll_s": chosen.poll_s,
        "requests_per_s": round(requests / chosen.seconds, 1),
        "api_cpu_ms_per_request": round(cpu_s / requests * 1000, 3),
        "errors": errors,
        "routes": routes,
        "target_p99_ms": TARGET_S * 1000,
        "ratio_to_target": round(p99 / (TARGET_S * 1000), 3),
        "reached": p99 < TARGET_S * 1000 and not errors,
    }
    finish(result, as_json=chosen.json)


if __name__ == "__main__":
    main()
