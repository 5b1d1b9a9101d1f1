"""The map in a browser: points that are drawn, found, selected, saved and moved."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Page, expect
from shoal import Client
from shoal.store import Store
from shoal.store.table_schemas import MAP_SCHEMA

from tests.browser.conftest import check_accessible
from tests.conftest import WaitUntil
from tests.contracts.conftest import Running

Open = Callable[..., Page]
EVIL = "<img src=x onerror=alert(1)> \u202egnp.exe"
NO_WEBGL = """
const real = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  return kind.startsWith('webgl') ? null : real.call(this, kind, ...more);
};
"""


@pytest.fixture(scope="session")
def mapped(client: Client, embedded: str, stack: Running) -> str:
    """Id of a clustering of 36 images in four clusters, on a map with one image in each of 36 places."""
    result = client.wait(client.cluster(embedded, clusters=4, seed=5)).result
    assert result is not None
    clustering = Store(stack.root / "store").clustering(str(result["clustering"]))
    rows = np.arange(36)
    x, y = (rows % 6).astype(np.float32), (rows // 6).astype(np.float32)
    table = pa.table({"embeddings": [embedded] * 36, "row": rows, "x": x, "y": y}).cast(MAP_SCHEMA)
    pq.write_table(table, clustering.layout.map)
    clustering.layout.files.unlink()  # It has the checksum of another map.
    return clustering.id


@pytest.fixture
def open_map(open_pages: Callable[..., tuple[Page, object]], stack: Running, mapped: str) -> Open:
    """``open_map(size="wide", dark=False, query="", script=None)``: the map, drawn."""

    def make(size: str = "wide", *, dark: bool = False, query: str = "", script: str | None = None) -> Page:
        page, _ = open_pages(stack.clusterer, size, dark=dark)
        if script is not None:
            page.add_init_script(script)
        page.goto(f"/ui/clusterings/{mapped}/map{query}")
        page.wait_for_selector(".plot[data-drawn]")
        return page

    return make


def place(page: Page, row: int) -> tuple[float, float]:
    """Where the point of a row is drawn while the whole map is shown."""
    box = page.locator(".plot").bounding_box()
    assert box is not None
    side = min(box["width"], box["height"]) - 58
    centre = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    return centre[0] + side * (row % 6 / 5 - 0.5), centre[1] - side * (row // 6 / 5 - 0.5)


def lasso(page: Page, *rows: int) -> None:
    """Draw a line through the places of rows."""
    page.get_by_role("button", name="Lasso").click()
    page.mouse.move(*place(page, rows[0]))
    page.mouse.down()
    for row in (*rows[1:], rows[0]):
        page.mouse.move(*place(page, row), steps=8)
    page.mouse.up()


def selected(page: Page, images: int) -> None:
    expect(page.locator(".selection h2")).to_have_text(f"{images} image{'' if images == 1 else 's'} selected")


def select(page: Page, first: int, last: int) -> None:
    """Draw a rectangle from the point of a row to that of another one, both inside."""
    left, top = place(page, first)
    right, bottom = place(page, last)
    page.keyboard.down("Shift")
    page.mouse.move(left - 9, top - 9)
    page.mouse.down()
    page.mouse.move(right + 9, bottom + 9, steps=5)
    page.mouse.up()
    page.keyboard.up("Shift")


def colours(page: Page) -> int:
    """How many different colours the map shows."""
    script = """async (plot) => {
      const image = new Image();
      image.src = 'data:image/png;base64,' + plot;
      await image.decode();
      const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
      const context = canvas.getContext('2d');
      context.drawImage(image, 0, 0);
      return new Set(new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer)).size;
    }"""
    return int(page.evaluate(script, base64.b64encode(page.locator(".plot").screenshot()).decode()))


def test_a_lasso_selects_what_can_be_saved(open_map: Open, tmp_path: Path) -> None:
    page = open_map()
    lasso(page, 7, 10, 28, 25)
    # The line runs through the outer places, which may or may not count; those inside always do.
    count = int(page.locator(".selection h2").inner_text().split()[0])
    assert 4 <= count <= 16
    with page.expect_download() as csv_file:
        page.get_by_role("button", name="Save CSV").click()
    csv_file.value.save_as(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        saved = list(csv.DictReader(file))
    with page.expect_download() as lines_file:
        page.get_by_role("button", name="Save JSONL").click()
    lines_file.value.save_as(tmp_path / "rows.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [int(each["row"]) for each in saved] == [each["row"] for each in rows]
    assert len(rows) == count
    assert {14, 15, 20, 21} <= {each["row"] for each in rows}
    assert all(each["image_path"].endswith(".png") for each in saved)
    expect(page.locator(".pictures img")).to_have_count(count)


def test_a_rectangle_is_drawn_with_shift(open_map: Open) -> None:
    page = open_map()
    select(page, 24, 8)
    selected(page, 12)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".selection")).to_have_count(0)


def test_what_is_selected_moves_to_a_cluster_and_back(open_map: Open, client: Client, mapped: str) -> None:
    page = open_map()
    select(page, 0, 0)
    selected(page, 1)
    page.get_by_label("Move to the group").fill("3")
    page.get_by_role("button", name="Move", exact=True).click()
    expect(page.get_by_text("Moved 1 image to")).to_be_visible()
    assert client.moves(mapped) == {0: 3}
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function(
        f"fetch('/clusterings/{mapped}/moves').then(a => a.json()).then(m => !Object.keys(m).length)"
    )


def test_undo_takes_back_its_own_move(open_map: Open, client: Client, mapped: str) -> None:
    page = open_map()
    for row in (0, 1):
        select(page, row, row)
        selected(page, 1)
        page.get_by_label("Move to the group").fill("3")
        page.get_by_role("button", name="Move", exact=True).click()
        expect(page.get_by_role("button", name="Undo")).to_have_count(row + 1)
    assert client.moves(mapped) == {0: 3, 1: 3}
    page.get_by_role("button", name="Undo").first.click()
    expect(page.get_by_text("Taken back.")).to_be_visible()
    assert client.moves(mapped) == {1: 3}
    page.get_by_role("button", name="Undo").first.click()
    expect(page.get_by_text("Taken back.")).to_have_count(2)
    assert client.moves(mapped) == {}


def test_keys_alone_do_all(open_map: Open) -> None:
    page = open_map()
    page.locator(".plot").focus()
    page.keyboard.press("a")
    selected(page, 36)
    page.keyboard.press("Escape")
    expect(page.locator(".selection")).to_have_count(0)
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator(".hovered .quiet").first).to_contain_text(".png")
    page.keyboard.press("Enter")
    expect(page.locator(".touched li")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator(".selection")).to_have_count(0)
    for _ in range(3):
        page.keyboard.press("+")
    page.keyboard.press("a")
    assert 0 < int(page.locator(".selection h2").inner_text().split()[0]) < 36


def test_the_pointer_shows_an_image(open_map: Open) -> None:
    page = open_map()
    page.mouse.move(*place(page, 13))
    expect(page.locator(".hovered img")).to_be_visible()
    expect(page.locator(".hovered")).to_contain_text("/001.png")
    page.mouse.move(*(each + 50 for each in place(page, 13)))
    expect(page.locator(".hovered")).to_have_count(0)


def test_a_legend_hides_groups(open_map: Open, wait_until: WaitUntil) -> None:
    page = open_map()
    all_colours = colours(page)
    page.get_by_label("Colour by").select_option("label")
    expect(page.locator(".legend li")).to_have_count(3)
    page.get_by_role("button", name="Show only red").click()
    page.locator(".plot").focus()
    page.keyboard.press("a")
    selected(page, 12)
    page.keyboard.press("Escape")
    wait_until(lambda: 2 < colours(page) < all_colours, what="the points of two groups to vanish")
    page.get_by_label("Colour by").select_option("margin")
    page.get_by_label("Up to").fill("0")
    page.locator(".plot").focus()

    def all_shown() -> int:
        page.keyboard.press("a")
        return int(page.locator(".selection h2").inner_text().split()[0])

    # The map hides points after the page was drawn anew.
    wait_until(lambda: all_shown() < 36, what="points to be hidden")
    expect(page).to_have_url(re.compile("by=margin"))


def test_it_is_drawn_without_webgl(open_map: Open) -> None:
    page = open_map(script=NO_WEBGL)
    expect(page.locator(".plot")).to_have_attribute("data-kind", "canvas")
    assert colours(page) > 4
    page.mouse.move(*place(page, 13))
    expect(page.locator(".hovered")).to_contain_text("/001.png")


def test_names_are_text(open_map: Open, client: Client, mapped: str) -> None:
    client.name(mapped, {2: {"name": EVIL}})
    try:
        page = open_map(query="?clusters=2")
        expect(page.locator(".touched a")).to_have_text(EVIL)
        expect(page.locator("img[src=x]")).to_have_count(0)
        page.get_by_text("The groups as a table").click()
        expect(page.locator(".listed tbody tr")).to_have_count(4)
        expect(page.locator(".listed th", has_text="onerror")).to_be_visible()
    finally:
        client.undo_names(mapped)


@pytest.mark.parametrize(("size", "dark"), [("wide", True), ("phone", False)])
def test_everybody_can_use_it(open_map: Open, size: str, dark: bool) -> None:
    page = open_map(size, dark=dark)
    page.locator(".plot").focus()
    page.keyboard.press("a")
    selected(page, 36)
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_clustering_without_a_map_says_so(
    open_pages: Callable[..., tuple[Page, object]], stack: Running, client: Client, embedded: str
) -> None:
    result = client.wait(client.cluster(embedded, clusters=2, seed=8)).result
    assert result is not None
    clustering = Store(stack.root / "store").clustering(str(result["clustering"]))
    clustering.layout.map.unlink()
    clustering.layout.files.unlink()
    page, watch = open_pages(stack.clusterer)
    watch.allowed |= {404, 500}  # type: ignore[attr-defined]
    page.goto(f"/ui/clusterings/{clustering.id}/map")
    expect(page.get_by_role("main")).to_contain_text("map")
    expect(page.locator(".plot")).to_have_count(0)
