"""The map of many images in a real browser: bytes that it loads, time until all points are drawn, time of a lasso.

A store with random groups is made (no images), clustered, and laid out at random if it has no map; Debian's `chromium`
draws it with SwiftShader, its software for WebGL, as on a machine without a graphics card, and once more without WebGL.
Expected at 1,000,000 points: under 20 MB, drawn within 3 s of the data, a lasso within 500 ms.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from _common import finish, parser
from clusterer import pipeline
from playwright.sync_api import Page, sync_playwright
from shoal.importer import import_embeddings
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store

SOFTWARE = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader"]
NO_WEBGL = ["--no-sandbox", "--disable-3d-apis"]
MEASURED = "name => performance.getEntriesByName(name).map(entry => entry.duration)"


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1_000_000, help="how many images (%(default)s)")
    options.add_argument("--clusters", type=int, default=1000, help="how many clusters (%(default)s)")
    options.add_argument("--work", type=Path, help="keep the store here; a temporary folder by default")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = given.work or Path(temporary)
        clustering = made(root / "store", given.rows, given.clusters)
        result = {"rows": given.rows, "clusters": given.clusters, **measured(root / "store", clustering)}
    for name, value in result.items():
        print(f"{name}: {value}")
    finish(result, as_json=given.json)


def made(root: Path, rows: int, clusters: int) -> str:
    """Id of a clustering of random groups, with a map."""
    store = Store(root)
    if not store.clustering_ids():
        rng = np.random.default_rng(0)
        group = rng.integers(0, clusters, rows)
        centres = rng.normal(size=(clusters, 16))
        vectors = (centres[group] + 0.3 * rng.normal(size=(rows, 16))).astype(np.float32)
        root.mkdir(parents=True, exist_ok=True)
        np.save(root / "vectors.npy", vectors)
        embeddings = import_embeddings(store, root / "vectors.npy", name="random", split=None)
        (root / "vectors.npy").unlink()
        kmeans = {"iterations": 5, "restarts": 1, "max_points_per_centroid": 100}
        request = {"embeddings": embeddings, "clusters": clusters, "seeds": [0], "pca": None, "kmeans": kmeans}
        pipeline.run(JobContext.local(request, kind="cluster"), Settings(store=root))
    return store.clustering_ids()[0]


@contextmanager
def served(store: Path) -> Iterator[str]:
    """Address of a clusterer on a store, without a queue."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "SHOAL_STORE": str(store),
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "SHOAL_PORT": str(port),
    }
    serve = (
        "import sys, uvicorn; from clusterer.api.clusterings import build; uvicorn.run(build(), port=int(sys.argv[1]))"
    )
    server = subprocess.Popen([sys.executable, "-c", serve, str(port)], env=environment, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{base}/session")
        yield base
    finally:
        server.terminate()
        server.wait(30)


def measured(store: Path, clustering: str) -> dict[str, Any]:
    """Figures of the server and of both ways to draw."""
    with served(store) as base:
        result = loaded(base, clustering)
        for name, flags in (("webgl", SOFTWARE), ("canvas", NO_WEBGL)):
            result |= {f"{name}_{key}": value for key, value in drawn(base, clustering, flags).items()}
        return result


def loaded(base: str, clustering: str) -> dict[str, Any]:
    """Bytes and seconds of what the page loads, and of one point's description."""
    result: dict[str, Any] = {"bytes": 0}
    for name, what in (("points", "points"), ("values", "values?by=cluster"), ("row", "rows?rows=12345")):
        began = time.perf_counter()
        answer = httpx.get(f"{base}/clusterings/{clustering}/map/{what}", timeout=60)
        answer.raise_for_status()
        result[f"{name}_s"] = round(time.perf_counter() - began, 3)
        result["bytes"] += len(answer.content) if name != "row" else 0
    return result


def drawn(base: str, clustering: str, flags: list[str]) -> dict[str, Any]:
    """Milliseconds until all points are drawn after the data are there, and of a lasso around a third of the map."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{base}/ui/clusterings/{clustering}/map")
        page.wait_for_selector(".plot[data-drawn]", timeout=120_000)
        kind = page.locator(".plot").get_attribute("data-kind")
        first = page.evaluate(MEASURED, "map-drawn")[0]
        lasso(page)
        selected = page.locator(".selection h2").inner_text()
        found = page.evaluate(MEASURED, "map-lasso")[0]
        browser.close()
    return {"drawn_by": kind, "drawn_ms": round(first), "lasso_ms": round(found), "lasso_found": selected}


def lasso(page: Page) -> None:
    """Draw a circle around the middle of the map."""
    box = page.locator(".plot").bounding_box()
    assert box is not None
    x, y, radius = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["height"] / 6
    page.get_by_role("button", name="Lasso").click()
    page.mouse.move(x + radius, y)
    page.mouse.down()
    for step in range(1, 120):
        angle = 2 * math.pi * step / 120
        page.mouse.move(x + radius * math.cos(angle), y + radius * math.sin(angle))
    page.mouse.up()
    page.wait_for_selector(".selection h2", timeout=60_000)


def _wait(address: str) -> None:
    for _ in range(200):
        try:
            httpx.get(address, timeout=2)
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("The API did not start.")


if __name__ == "__main__":
    main()
