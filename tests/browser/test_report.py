"""The report in a browser: from disk without a network, and from the service with names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusterer.results.report.page import render_page
from playwright.sync_api import Page, Position, expect
from shoal import Client
from shoal.store import Store
from shoal.store.table_schemas import MAP_SCHEMA

from tests.browser.conftest import check_accessible
from tests.contracts.conftest import Running

OpenPages = Callable[..., tuple[Page, object]]
EVIL = "<img src=x onerror=alert(1)> \u202egnp.exe"


@pytest.fixture(scope="session")
def saved(stack: Running, clustered: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report as a file of its own, far from the store."""
    path = tmp_path_factory.mktemp("mailed") / "report.html"
    stack.cli("report", clustered, "--output", str(path))
    return path


@pytest.mark.parametrize(("size", "dark"), [("wide", False), ("wide", True), ("phone", False)])
def test_it_opens_from_disk(open_pages: OpenPages, saved: Path, size: str, dark: bool) -> None:
    page, _ = open_pages("file://", size, dark=dark)
    page.context.set_offline(True)
    page.goto(saved.as_uri())
    expect(page.locator(".cluster")).to_have_count(4)
    for picture in page.locator(".cluster").first.locator("xpath=div").locator("img").all():
        picture.evaluate("image => image.decode()")
    groups, figures = (page.locator(each).bounding_box() for each in (".wall", "#figures"))
    assert groups is not None
    assert figures is not None
    assert groups["y"] < figures["y"]
    assert groups["y"] < 400
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    check_accessible(page)


def test_its_map_finds_clusters(
    open_pages: OpenPages, stack: Running, client: Client, embedded: str, tmp_path: Path
) -> None:
    result = client.wait(client.cluster(embedded, clusters=3, seed=4)).result
    assert result is not None
    store = Store(stack.root / "store")
    clustering = store.clustering(str(result["clustering"]))
    rows = np.arange(36)
    x, y = (rows % 6).astype(np.float32), (rows // 6).astype(np.float32)
    table = pa.table({"embeddings": [embedded] * 36, "row": rows, "x": x, "y": y}).cast(MAP_SCHEMA)
    pq.write_table(table, clustering.layout.map)
    clustering.layout.files.unlink()  # It has the checksum of another map.
    clustering = store.clustering(clustering.id)
    html, _ = render_page(clustering, store.embeddings(embedded))
    (tmp_path / "report.html").write_text(html, encoding="utf-8")
    page, _ = open_pages("file://")
    page.goto((tmp_path / "report.html").as_uri())
    canvas = page.locator(".map canvas")
    canvas.focus()
    page.keyboard.press("+")
    page.keyboard.press("0")
    box = canvas.bounding_box()
    assert box is not None
    side = min(box["width"], box["height"]) - 40
    numbers = clustering.assignments(embedded).column("cluster").to_pylist()
    for row in (0, 35):
        x_at, y_at = row % 6 / 5 - 0.5, row // 6 / 5 - 0.5
        place: Position = {"x": box["width"] / 2 + side * x_at, "y": box["height"] / 2 - side * y_at}
        canvas.hover(position=place)
        expect(page.locator(".map output")).to_have_text(re.compile(f"^{numbers[row]} "))
        canvas.click(position=place)
        expect(page).to_have_url(re.compile(f"#c{numbers[row]}$"))


def test_a_name_is_text_in_it(open_pages: OpenPages, stack: Running, client: Client, clustered: str) -> None:
    client.name(clustered, {1: {"name": EVIL}})
    try:
        page, _ = open_pages(stack.clusterer)
        page.goto(f"/clusterings/{clustered}/report")
        expect(page.locator("#c1 h3 b")).to_have_text(EVIL)
        expect(page.locator("img[src=x]")).to_have_count(0)
    finally:
        client.undo_names(clustered)
