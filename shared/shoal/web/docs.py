"""``/docs``: Swagger UI, served by this service itself: the page loads nothing from other hosts."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse

from shoal.errors import NotFound
from shoal.web.route import router as make_router

STATIC: Final = Path(__file__).with_name("static")
FILES: Final = {
    "swagger-ui.css": (STATIC / "swagger-ui/swagger-ui.css", "text/css; charset=utf-8"),
    "swagger-ui-bundle.js": (STATIC / "swagger-ui/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "docs.js": (STATIC / "docs.js", "text/javascript; charset=utf-8"),
}
PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui">This page needs JavaScript. <a href="openapi.json">openapi.json</a> describes the routes.</div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</body>
</html>
"""

router = make_router(include_in_schema=False)


@router.get("/docs")
def page(request: Request) -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE.format(title=escape(request.app.title)))


@router.get("/docs/{name}")
def file(name: str) -> FileResponse:
    """One of the files that the page loads."""
    if name not in FILES:
        raise NotFound(f"/docs has no file {name[:100]!r}; it has {', '.join(FILES)}.")
    path, kind = FILES[name]
    return FileResponse(path, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})
