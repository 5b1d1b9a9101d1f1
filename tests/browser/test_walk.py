"""The whole way in one browser: images in, groups out, named, merged, looked at, selected on the map and exported."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.conftest import check_accessible
from tests.contracts.conftest import paint

LONG_MS = 120_000


def test_from_images_to_an_export(page: Page, tmp_path: Path) -> None:
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if request.url.endswith("/events") else None)
    send_images(page, tmp_path)
    watch_jobs(page)
    assert len(streams) >= 2  # of both jobs: nothing was reloaded to see them end
    wall = page.url
    name_merge_undo(page)
    look_at_a_group(page)
    page.goto(wall)
    select_on_the_map(page, tmp_path)
    page.goto(wall)
    export(page, tmp_path)


def send_images(page: Page, tmp_path: Path) -> None:
    """A folder of this computer, in four groups."""
    paint(tmp_path / "walk")
    page.goto("/")
    page.get_by_role("link", name="Add images").first.click()
    with page.expect_file_chooser() as chooser:
        page.get_by_text("Choose a folder").click()
    chooser.value.set_files(tmp_path / "walk")
    expect(page.get_by_text("36 images")).to_be_visible()
    expect(page.locator(".previews img").first).to_be_visible()
    page.get_by_role("radio", name="raw_pixels").check()
    page.get_by_role("radio", name="This many").check()
    page.get_by_label("Number of groups").fill("4")
    check_accessible(page)
    page.get_by_role("button", name="Start").click()


def watch_jobs(page: Page) -> None:
    """Both jobs, up to the wall of their groups."""
    expect(page).to_have_url(re.compile("/ui/jobs/[0-9a-f]+$"), timeout=LONG_MS)
    expect(page.get_by_role("main")).to_contain_text("Then 4 groups of these images", timeout=LONG_MS)
    expect(page.get_by_text("36 images embedded")).to_be_visible(timeout=LONG_MS)
    groups = page.get_by_role("link", name="See the groups")
    expect(groups).to_be_visible(timeout=LONG_MS)
    check_accessible(page)
    groups.click()
    expect(page).to_have_url(re.compile("/ui/clusterings/[^/]+$"))


def name_merge_undo(page: Page) -> None:
    """By keyboard, on the wall. The name stays."""
    cards = page.locator(".group-card[data-cluster]")
    expect(cards).to_have_count(4)
    expect(cards.first.locator("img").first).to_be_visible()
    expect(cards.filter(has_text="red")).not_to_have_count(0)
    check_accessible(page)
    cards.first.focus()
    page.keyboard.press("n")
    expect(page.get_by_label("Name of group")).to_be_focused()
    page.keyboard.type("First of all")
    page.keyboard.press("Enter")
    expect(cards.first.locator("strong")).to_have_text("First of all")

    cards.first.focus()
    page.keyboard.press(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.keyboard.press("m")
    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(cards).to_have_count(3)
    expect(cards.filter(has_text="2 merged")).to_have_count(1)
    page.locator(".toast").get_by_role("button", name="Undo").last.click()
    expect(cards).to_have_count(4)
    expect(cards.filter(has_text="First of all")).to_have_count(1)


def look_at_a_group(page: Page) -> None:
    """Its images, what is like the first of them, and a search from there."""
    page.get_by_role("link", name="Open First of all").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("First of all")
    members = page.locator(".member[data-row]")
    expect(members.first.locator("img")).to_be_visible()
    check_accessible(page)
    members.first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(".similar img").first).to_be_visible()
    check_accessible(page)
    dialog.get_by_role("link", name="More like this").click()
    expect(page).to_have_url(re.compile("/ui/search"))
    expect(page.locator(".hits img").first).to_be_visible()
    check_accessible(page)


def select_on_the_map(page: Page, tmp_path: Path) -> None:
    """All images, by a line around them; they are saved as a table."""
    page.get_by_role("link", name="Map", exact=True).click()
    page.wait_for_selector(".plot[data-drawn]")
    check_accessible(page)
    box = page.locator(".plot").bounding_box()
    assert box is not None
    left, top = box["x"] + 3, box["y"] + 3
    right, bottom = left + box["width"] - 6, top + box["height"] - 6
    page.get_by_role("button", name="Lasso").click()
    # From a corner without buttons.
    corners = [
        (right, bottom),
        (right, top),
        (left + 320, top),
        (left + 320, top + 50),
        (left, top + 50),
        (left, bottom),
    ]
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in (*corners[1:], corners[0]):
        page.mouse.move(*corner, steps=5)
    page.mouse.up()
    expect(page.get_by_role("heading", name="36 images selected")).to_be_visible()
    expect(page.locator(".selection img").first).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save CSV").click()
    assert len(read_rows(saved.value.path())) == 36


def export(page: Page, tmp_path: Path) -> None:
    """The table of all images, with the name that was given."""
    page.get_by_text("Export", exact=True).click()
    with page.expect_download() as saved:
        page.get_by_role("link", name="CSV").click()
    rows = read_rows(saved.value.path())
    assert len(rows) == 36
    named = [row for row in rows if "First of all" in row.values()]
    assert 0 < len(named) < 36


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))
