"""The wall of groups and the page of a large group: seconds of the server, bytes, and what a browser loads.

A store with planted groups and thumbnails is made: 100,000 images in 1,000 clusters, one of them with a tenth of all
images. Each request is timed in a server that just started and once more. Then Debian's `chromium` opens the wall
and scrolls the large group to its end. Expected: a first page under 300 ms and under 2 MB.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import pyarrow as pa
from _common import finish, parser
from clusterer import pipeline
from pages import served
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id

SHARD: Final = 10_000
FIRST: Final = {"merged": True, "covers": 6, "limit": 48}
"""What the wall asks for first."""
IN_SIGHT: Final = 15
"""Groups of a screen, whose images are loaded with the first page."""
LOADED: Final = "() => performance.getEntriesByType('resource').reduce((sum, each) => sum + each.transferSize, 0)"


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=100_000, help="how many images (%(default)s)")
    options.add_argument("--clusters", type=int, default=1000, help="how many clusters (%(default)s)")
    options.add_argument("--work", type=Path, help="keep the store here; a temporary folder by default")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (given.work or Path(temporary)) / "store"
        clustering = made(root, given.rows, given.clusters)
        with served(root) as base:
            result = {"rows": given.rows, "clusters": given.clusters, **measured(base, clustering)}
            result |= looked_at(base, clustering, result["largest_cluster"])
    for name, value in result.items():
        print(f"{name}: {value}")
    finish(result, as_json=given.json)


def made(root: Path, rows: int, clusters: int) -> str:
    """Id of a clustering of planted groups with labels and thumbnails."""
    store = Store(root)
    if store.clustering_ids():
        return store.clustering_ids()[0]
    rng = np.random.default_rng(0)
    group = np.where(rng.random(rows) < 0.1, 0, rng.integers(0, clusters, rows))
    centres = 4 * rng.normal(size=(clusters, 16))
    vectors = (centres[group] + 0.2 * rng.normal(size=(rows, 16))).astype(np.float32)
    paths = [f"photos/{group[row]:04d}/{row:07d}.jpg" for row in range(rows)]
    labels = [f"class {each % 100}" for each in group.tolist()]
    columns = {"image_id": [image_id(path) for path in paths], "image_path": paths, "label": labels}
    plan = Plan(
        name="planted",
        source=Source.of(pa.table(columns), kind="images", path="photos"),
        model=ModelRecord(name="raw_pixels", backend="torch", architecture="raw_pixels", embedding="pixels"),
        dim=16,
        dtype="float32",
        shard_rows=SHARD,
        thumbnails=True,
        transform={},
    )
    embeddings = store.create_embeddings(plan, pa.table(columns))
    images = [_thumbnail(rng) for _ in range(200)]
    for shard in range(plan.shards):
        start, stop = plan.shard_range(shard)
        said = [RowMetadata(image_id(paths[row]), paths[row], labels[row]) for row in range(start, stop)]
        with store.shard_writer(embeddings.id, shard, attempt=1, owner="benchmark") as writer:
            shown = [images[(group[row] + row) % 200] for row in range(start, stop)]
            writer.append(vectors[start:stop], said, thumbnails=shown)
            writer.commit()
    store.finish_embeddings(embeddings.id)
    kmeans = {"iterations": 5, "restarts": 1, "max_points_per_centroid": 100}
    request = {"embeddings": embeddings.id, "clusters": clusters, "seeds": [0], "pca": None, "kmeans": kmeans}
    return str(pipeline.run(JobContext.local(request, kind="cluster"), Settings(store=root))["clustering"])


def _thumbnail(rng: np.random.Generator) -> bytes:
    """A picture with about as many bytes as the thumbnail of a photo."""
    small = Image.fromarray(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8))
    out = io.BytesIO()
    small.resize((128, 128), Image.Resampling.BICUBIC).save(out, "WEBP", quality=80)
    return out.getvalue()


def measured(base: str, clustering: str) -> dict[str, Any]:
    """Seconds and bytes of what the two pages ask for first; of a server that just started, then again."""
    path = f"{base}/clusterings/{clustering}"
    result: dict[str, Any] = {}
    wall, first, again = _timed(f"{path}/clusters", FIRST)
    groups = wall.json()
    covers = [row for each in groups["clusters"][:IN_SIGHT] for row in each["covers"]]
    thumbs, thumbs_first, thumbs_again = _timed(f"{base}/embeddings/{groups['embeddings']}/thumbnails", _rows(covers))
    result |= {"wall_s": first, "wall_again_s": again, "covers_s": thumbs_first, "covers_again_s": thumbs_again}
    result["wall_bytes"] = len(wall.content) + len(thumbs.content)
    largest = groups["clusters"][0]
    result |= {"largest_cluster": largest["cluster"], "largest_size": largest["size"]}
    members, first, again = _timed(f"{path}/clusters/{largest['cluster']}/members", {"limit": 200})
    rows = [each["row"] for each in members.json()["members"][:60]]
    thumbs, thumbs_first, _ = _timed(f"{base}/embeddings/{groups['embeddings']}/thumbnails", _rows(rows))
    result |= {"group_s": first, "group_again_s": again, "group_images_s": thumbs_first}
    result["group_bytes"] = len(members.content) + len(thumbs.content)
    for name, query in (("find", {**FIRST, "q": "0042"}), ("label", {**FIRST, "label": "class 7"})):
        _, result[f"{name}_s"], result[f"{name}_again_s"] = _timed(f"{path}/clusters", query)
    return result


def _rows(rows: list[int]) -> dict[str, str]:
    return {"rows": ",".join(map(str, rows))}


def _timed(address: str, query: dict[str, Any]) -> tuple[httpx.Response, float, float]:
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        answer = httpx.get(address, params=query, timeout=60)
        seconds.append(round(time.perf_counter() - began, 3))
        answer.raise_for_status()
    return answer, seconds[0], seconds[1]


def looked_at(base: str, clustering: str, largest: int) -> dict[str, Any]:
    """What a browser loads for the wall, and for the large group scrolled to its end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{base}/ui/clusterings/{clustering}")
        page.wait_for_selector(".group-card img")
        page.wait_for_load_state("networkidle")
        found: dict[str, Any] = {"browser_wall_bytes": page.evaluate(LOADED)}
        page.goto(f"{base}/ui/clusterings/{clustering}/clusters/{largest}")
        page.wait_for_selector(".member img")
        found["browser_group_images"] = scrolled(page)
        browser.close()
    return found


def scrolled(page: Page) -> int:
    """Images that are asked for until the end of the group is in sight."""
    asked = 0

    def count(address: str) -> None:
        nonlocal asked
        asked += address.count("%2C") + 1 if "/thumbnails?" in address else 0

    page.on("request", lambda request: count(request.url))
    page.keyboard.press("Tab")
    page.locator(".member").first.focus()
    page.keyboard.press("End")
    page.wait_for_function("() => document.activeElement.querySelector('img')")
    return asked


if __name__ == "__main__":
    main()
