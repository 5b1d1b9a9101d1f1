"""Pictures of every page of running services, for the documentation and for those who change the pages.

    python docs/screens.py http://127.0.0.1:8002 FOLDER [--clustering ID] [--pages wall map] [--webp]

It takes the newest set, clustering, sweep, duplicates and quality check unless told otherwise, opens each page in light
and dark at 1280 and 390 px in Debian's `chromium` (or SHOAL_CHROMIUM), and writes `<page>-<width>-<scheme>.png`.
With `--webp` the pictures are as small as the documentation wants them.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

SIZES = {1280: 860, 390: 780}
SCHEMES = ("light", "dark")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="address of the clusterer")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clustering", help="id of the clustering to show; the newest by default")
    parser.add_argument("--pages", nargs="+", help="only these pages")
    parser.add_argument("--webp", action="store_true", help="write small WebP files")
    parser.add_argument("--full", action="store_true", help="the whole page instead of what is in sight")
    chosen = parser.parse_args()
    pages = paths(chosen.url, chosen.clustering)
    wanted = {name: path for name, path in pages.items() if not chosen.pages or name in chosen.pages}
    chosen.folder.mkdir(parents=True, exist_ok=True)
    program = os.environ.get("SHOAL_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=[*arguments, "--enable-unsafe-swiftshader"])
        for width in SIZES:
            for scheme in SCHEMES:
                for name, png in take(browser, chosen.url, wanted, width, scheme, full=chosen.full).items():
                    write(chosen.folder / f"{name}-{width}-{scheme}", png, webp=chosen.webp)
        browser.close()


def paths(url: str, clustering: str | None) -> dict[str, str]:
    """The path of each page, with ids of what the services have."""
    found = {"home": "/", "new": "/ui/new", "jobs": "/ui/jobs", "search": "/ui/search", "login": "/ui/login"}
    found |= {"duplicates": "/ui/duplicates", "quality": "/ui/quality"}
    with httpx.Client(base_url=url, timeout=60) as http:

        def newest(path: str, name: str) -> list[str]:
            rows: list[dict[str, Any]] = http.get(path).json().get(name, [])
            return [str(row["id"]) for row in rows]

        clusterings = newest("/clusterings", "clusterings")
        if clustering:
            clusterings = [clustering, *(each for each in clusterings if each != clustering)]
        if clusterings:
            at = f"/ui/clusterings/{clusterings[0]}"
            found |= {"wall": at, "map": f"{at}/map", "figures": f"{at}/figures", "cluster": f"{at}/clusters/0"}
        if len(clusterings) > 1:
            found["compare"] = f"/ui/compare/{clusterings[0]}/{clusterings[1]}"
        for path, key, page in (
            ("/ui/extractor/embeddings", "embeddings", "embeddings"),
            ("/sweeps", "sweeps", "sweeps"),
            ("/duplicates", "duplicates", "duplicates"),
            ("/quality", "quality", "quality"),
            ("/jobs", "jobs", "jobs"),
        ):
            ids = newest(path, key)
            if ids:
                found[f"{page}-one"] = f"/ui/{page}/{ids[0]}"
                if key == "embeddings":
                    found["search"] = f"/ui/search?embeddings={ids[0]}&row=0"
    return found


def take(browser: Browser, url: str, pages: dict[str, str], width: int, scheme: str, *, full: bool) -> dict[str, bytes]:
    """A picture of each page."""
    context = browser.new_context(
        base_url=url,
        viewport={"width": width, "height": SIZES[width]},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    )
    shot = {}
    page = context.new_page()
    page.on("console", lambda message: print(f"{page.url}: {message.text}") if message.type == "error" else None)
    for name, path in pages.items():
        page.goto(path)
        # Pages that follow a job never fall silent.
        page.wait_for_selector("main h1")
        page.wait_for_timeout(1500)
        shot[name] = page.screenshot(full_page=full)
    context.close()
    return shot


def write(path: Path, png: bytes, *, webp: bool) -> None:
    """Write one picture."""
    if not webp:
        path.with_name(f"{path.name}.png").write_bytes(png)
        return
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(path.with_name(f"{path.name}.webp"), quality=80, method=6)


if __name__ == "__main__":
    main()
