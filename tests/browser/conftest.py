"""A real browser before a real system: what a person sees, and that nothing else happens.

The browser is Debian's `chromium`, or the one that SHOAL_CHROMIUM names. Without it, these tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)
from shoal import Client

from tests.contracts.conftest import START_S, Running, is_ready, paint, start
from tests.extractor.api.conftest import serve_app

__all__ = ["serve_app"]
CHROMIUM = os.environ.get("SHOAL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
MODEL = "tf_efficientnet_lite0"
# A test machine may be busy, and no test is about the time of an answer.
expect.set_options(timeout=30_000)
SIZES = {"wide": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for the tests of a file.

    While it runs, playwright has an event loop in this thread, in which no other test could run its own.
    """
    if CHROMIUM is None:
        pytest.skip("needs Debian's `chromium`, or SHOAL_CHROMIUM with the path of another")
    # Chromium's sandbox needs a user other than root.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=[*root, "--disable-dev-shm-usage"])
        yield running
        running.close()


class Watch:
    """What went wrong in a context, and what left its origin.

    Attributes
    ----------
    allowed
        Statuses of failed requests that a test expects; add to it.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.faults: list[str] = []
        self.allowed: set[int] = set()
        self._origin = urlsplit(origin).netloc
        context.on("request", self._request)
        context.on("response", self._response)
        context.on("console", self._console)
        context.on("weberror", lambda error: self.faults.append(f"error: {error.error}"))

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and parts.netloc != self._origin:
            self.faults.append(f"left the origin: {request.url}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.allowed:
            self.faults.append(f"{response.request.method} {response.url}: {response.status}")

    def _console(self, message: ConsoleMessage) -> None:
        # A failed request is judged by its status, above. Chromium warns of itself when it reads a WebGL canvas back to
        # show it without a graphics card.
        known = ("Failed to load resource", "GPU stall due to ReadPixels")
        if message.type in {"error", "warning"} and not any(each in message.text for each in known):
            self.faults.append(f"console: {message.text}")


Open = Callable[..., Page]


@pytest.fixture
def open_pages(browser: Browser) -> Iterator[Callable[..., tuple[Page, Watch]]]:
    """``open_pages(origin, size="wide", dark=False)``: a page of a fresh browser profile, and its `Watch`.

    At its end the test fails on every console error, failed request, and request that left the origin.
    """
    opened: list[tuple[BrowserContext, Watch]] = []

    def make(origin: str, size: str = "wide", *, dark: bool = False, javascript: bool = True) -> tuple[Page, Watch]:
        width, height = SIZES[size]
        context = browser.new_context(
            base_url=origin,
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
            java_script_enabled=javascript,
            accept_downloads=True,
        )
        context.set_default_timeout(30_000)
        watch = Watch(context, origin)
        opened.append((context, watch))
        return context.new_page(), watch

    yield make
    faults = [fault for context, watch in opened for fault in watch.faults]
    for context, _ in opened:
        context.close()
    assert not faults, "\n".join(faults)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, wait_until: Callable[..., None]) -> Iterator[Running]:
    """A running system with images below its data root, and nothing in its store."""
    root = tmp_path_factory.mktemp("pages")
    paint(root / "data" / "colours")
    running = start(root)
    try:
        wait_until(lambda: is_ready(running), deadline_s=START_S, what="readiness")
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        running.process.wait(60)


@pytest.fixture(scope="session")
def client(stack: Running) -> Iterator[Client]:
    """A client of the running system."""
    with Client(stack.extractor, stack.clusterer) as client:
        yield client


@pytest.fixture(scope="session")
def embedded(client: Client) -> str:
    """Id of an embedded set: 36 images of three colours, with labels and thumbnails."""
    result = client.wait(client.extract("colours", model=MODEL)).result
    assert result is not None
    return str(result["embeddings"])


@pytest.fixture(scope="session")
def clustered(client: Client, embedded: str) -> str:
    """Id of a clustering of `embedded` in four clusters. Tests that name or move must undo, or make their own."""
    result = client.wait(client.cluster(embedded, clusters=4, seed=0)).result
    assert result is not None
    return str(result["clustering"])


@pytest.fixture
def page(open_pages: Callable[..., tuple[Page, Watch]], stack: Running) -> Page:
    """A page of the running system, 1280 px wide."""
    found: Page = open_pages(stack.clusterer)[0]
    return found


def check_accessible(page: Page) -> None:
    """Fail on every serious or critical fault that axe-core finds on the page as it is now."""
    found = Axe().run(page)
    serious = [each for each in found.response["violations"] if each["impact"] in {"serious", "critical"}]
    assert not serious, "\n".join(
        f"{each['id']}: {each['help']}: {[node['html'][:160] for node in each['nodes'][:3]]}" for each in serious
    )


def screenshot(page: Page, folder: Path, name: str) -> None:
    """Keep a picture of the whole page, for people."""
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)
