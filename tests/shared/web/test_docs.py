"""The page of the routes works where there is no network."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from clusterer.api import clusterings as clusterer_api
from extractor.api import routes as extractor_api
from fastapi import FastAPI
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.web import docs

SERVICES = {"extractor": extractor_api.build, "clusterer": clusterer_api.build}
PUBLISHED = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}
"""SHA-256 of the files of swagger-ui-dist 5.35.0 on npm."""


class Links(HTMLParser):
    """The addresses that a page loads, and the scripts that stand in it."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.loaded += [known[name] or "" for name in ("src", "href") if name in known and tag != "a"]
        self.inline += [name for name in known if name.startswith("on") or name == "style"]
        if (tag == "script" and "src" not in known) or tag == "style":
            self.inline.append(tag)


@pytest.fixture(params=SERVICES)
def app(request: pytest.FixtureRequest, queue: JobQueue, tmp_path: Path) -> FastAPI:
    settings = Settings(store=tmp_path, data=tmp_path, models=tmp_path)
    return SERVICES[request.param](settings, queue, Store(tmp_path))


def test_the_page_loads_nothing_from_elsewhere(app: FastAPI) -> None:
    client = TestClient(app)
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert app.title in page.text
    links = Links()
    links.feed(page.text)
    assert links.inline == []
    assert len(links.loaded) == 4
    for link in links.loaded:
        address = urlsplit(urljoin("http://testserver/docs", link))
        if address.scheme == "data":
            continue
        assert address.netloc == "testserver"
        found = client.get(address.path)
        assert found.status_code == 200
        assert found.headers["content-type"].startswith(("text/css", "text/javascript"))
    start = client.get("/docs/docs.js").text
    assert not re.search(r"https?:", start)
    assert 'url: "openapi.json"' in start
    assert client.get("/openapi.json").json()["info"]["title"] == app.title


def test_the_page_may_run_no_script_but_ours(app: FastAPI) -> None:
    policy = TestClient(app).get("/docs").headers["content-security-policy"]
    parts = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert (parts["default-src"], parts["script-src"], parts["connect-src"]) == ("'none'", "'self'", "'self'")
    assert "http" not in policy


@pytest.mark.parametrize("name", ["nothing.js", "..%2fdocs.py", "README.md", "%2e%2e", "a" * 300])
def test_no_other_file_is_served(app: FastAPI, name: str) -> None:
    assert TestClient(app).get(f"/docs/{name}").status_code == 404


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_served_is_what_was_published(name: str) -> None:
    folder = docs.STATIC / "swagger-ui"
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == PUBLISHED[name]
    assert "Apache License" in (folder / "LICENSE").read_text()


@pytest.mark.browser
def test_a_browser_draws_the_routes(app: FastAPI, serve: Callable[..., int]) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000", "--dump-dom"]
    address = f"http://127.0.0.1:{serve(app)}/docs"
    drawn = subprocess.run([*command, address], capture_output=True, text=True, timeout=120, check=True).stdout
    assert "/jobs/{job_id}" in re.sub(r"<wbr>|\u200b|&ZeroWidthSpace;", "", drawn)
