"""The shell of every page, and the files that it loads. Pages are drawn by scripts from the API's answers.

The files are served below a path that changes with their content, so browsers keep them for ever and never mix two
versions. They hold no data and need no key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Final

import xxhash
from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from shoal.errors import NotFound

STATIC: Final = Path(__file__).with_name("static")
PREFIX: Final = "/ui/static/"
MEDIA: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
OPEN: Final = re.compile(r"/|/ui|/ui/(?!extractor/).*")
"""Paths that answer `GET` without a key: they hold no data."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SHELL: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Shoal</title>
<link rel="icon" href="{base}icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{base}style.css">
<link rel="modulepreload" href="{base}vendor/preact.js">
<script type="module" src="{base}app.js"></script>
</head>
<body>
<div id="app"></div>
<noscript>These pages need JavaScript. The API works without: <a href="/docs">/docs</a> describes its routes.</noscript>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Files:
    """The static files.

    Attributes
    ----------
    content
        Bytes and media type of each, by its path below the folder.
    digest
        Changes with any of them.
    """

    content: dict[str, tuple[bytes, str]]
    digest: str

    @property
    def base(self) -> str:
        """Path below which they are served."""
        return f"{PREFIX}{self.digest}/"


@cache
def files() -> Files:
    """All static files, read once: a few hundred kilobytes."""
    paths = sorted(path for path in STATIC.rglob("*") if path.suffix in MEDIA)
    content = {path.relative_to(STATIC).as_posix(): (path.read_bytes(), MEDIA[path.suffix]) for path in paths}
    digest = xxhash.xxh3_128()
    for name, (data, _) in content.items():
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return Files(content, digest.hexdigest()[:16])


@router.api_route(PREFIX + "{path:path}", methods=["GET", "HEAD"])
async def file(path: str) -> Response:
    """One of the files. Another version's path is not found: a page never mixes two versions."""
    found = files()
    digest, _, name = path.partition("/")
    if digest != found.digest or name not in found.content:
        raise NotFound("There is no such file in this version of the pages. Reload the page.")
    data, kind = found.content[name]
    return Response(data, media_type=kind, headers={"Cache-Control": "public, max-age=31536000, immutable"})


@router.api_route("/", methods=["GET", "HEAD"])
@router.api_route("/ui/{path:path}", methods=["GET", "HEAD"])
async def shell() -> HTMLResponse:
    """The same document for every page: the address says which one the scripts draw."""
    page = SHELL.format(base=escape(files().base))
    return HTMLResponse(page, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})
