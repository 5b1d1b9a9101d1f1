"""Duplicates, quality, comparing and search, as a person does them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from clusterer.api.clusterings import build
from clusterer.jobs.duplicates import run as find_duplicates
from playwright.sync_api import Page, expect
from pydantic import SecretStr
from shoal import Client
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import DUPLICATES

from tests.browser.conftest import MODEL, Watch, check_accessible
from tests.clusterer.conftest import set_maker
from tests.contracts.conftest import Running, paint

OpenPages = Callable[..., tuple[Page, Watch]]
HOSTILE = "<img src=x onerror=alert(1)>"
RTL = "\u202ecod.exe"


@pytest.fixture(scope="module")
def mixed(stack: Running, client: Client) -> str:
    """Embeddings of three colours: one has a hostile name, an image a wrong label, another a copy."""
    folder = stack.root / "data" / "mixed"
    paint(folder, per_class=8)
    first, *_ = sorted(each for each in folder.iterdir() if each.is_dir())
    hostile = first.rename(folder / HOSTILE)
    other = next(each for each in sorted(folder.iterdir()) if each != hostile)
    shutil.copy(hostile / "000.png", hostile / f"{RTL}.png")
    (hostile / "001.png").rename(other / f"{'long ' * 40}.png")
    result = client.wait(client.extract("mixed", model=MODEL, name="mixed")).result
    assert result is not None
    return str(result["embeddings"])


@pytest.fixture(scope="module")
def duplicates(client: Client, mixed: str) -> str:
    result = client.wait(client.duplicates(mixed, threshold=0.999)).result
    assert result is not None
    return str(result["duplicates"])


def no_overflow(page: Page) -> None:
    """Nothing is wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_person_starts_a_search_for_duplicates_and_decides(page: Page, mixed: str, client: Client) -> None:
    page.goto("/ui/duplicates")
    check_accessible(page)
    form = page.get_by_role("form", name="Find duplicates")
    form.get_by_label("Images").select_option(mixed)
    form.get_by_label("Similarity from").fill("1")
    form.get_by_role("button", name="Find duplicates").click()
    expect(page.get_by_role("heading", name="Duplicates in mixed")).to_be_visible(timeout=60_000)
    group = page.get_by_role("region", name="Group of 2 images")
    expect(group).to_have_count(1)
    expect(group).to_contain_text("Same file")
    expect(group).to_contain_text("same file, equal to")
    members = group.locator("[data-image]")
    expect(members.nth(0)).to_have_class("judged is-keep")
    expect(members.nth(1)).to_have_class("judged is-drop")
    check_accessible(page)

    # By the keyboard alone: the other way round, and back.
    page.keyboard.press("j")
    expect(members.nth(0)).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("j")
    page.keyboard.press("Space")
    expect(members.nth(1)).to_have_class("judged is-keep said")
    expect(page.get_by_text("2 of 2 decided")).to_be_visible()
    which = page.url.rsplit("/", 1)[1]
    kept = {row: said["action"] for row, said in client.decisions("duplicates", which).rows.items()}
    assert sorted(kept.values()) == ["drop", "keep"]
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("1 of 2 decided")).to_be_visible()
    expect(members.nth(1)).to_have_class("judged is-drop")
    expect(page.get_by_text("2 images to drop.")).to_be_visible()
    page.get_by_role("button", name="Accept this page").click()
    expect(page.get_by_text("2 of 2 decided")).to_be_visible()

    page.get_by_text("Export", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Paths to drop").click()
    paths = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert sorted(paths) == sorted([f"{HOSTILE}/000.png", f"{HOSTILE}/{RTL}.png"])
    page.get_by_label("Show").select_option("open")
    expect(page.get_by_role("heading", name="No group fits")).to_be_visible()


def test_what_others_decided_is_shown_instead_of_lost(
    open_pages: OpenPages, stack: Running, duplicates: str, client: Client
) -> None:
    page, watch = open_pages(stack.clusterer)
    watch.allowed.add(412)
    page.goto(f"/ui/duplicates/{duplicates}")
    member = page.locator("[data-image]").first
    member.focus()
    row = int(member.get_attribute("data-image") or "")
    expect(page.get_by_text("decided", exact=False).last).to_be_visible()
    client.decide("duplicates", duplicates, {row: {"action": "drop"}})
    page.keyboard.press("Space")
    expect(page.get_by_text("Somebody else decided meanwhile.")).to_be_visible()
    expect(member).to_have_class("judged is-drop said")
    client.undo_decision("duplicates", duplicates)


@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_a_phone(open_pages: OpenPages, stack: Running, duplicates: str, clustered: str, dark: bool) -> None:
    page, _ = open_pages(stack.clusterer, "phone", dark=dark)
    results = (f"/ui/duplicates/{duplicates}", f"/ui/compare/{clustered}/{clustered}")
    for path in ("/ui/duplicates", "/ui/quality", "/ui/search", *results):
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        no_overflow(page)
        check_accessible(page)


def test_a_person_corrects_labels(page: Page, mixed: str, client: Client) -> None:
    page.goto("/ui/quality")
    form = page.get_by_role("form", name="Check quality")
    form.get_by_label("Images").select_option(mixed)
    form.get_by_label("Neighbours").fill("5")
    form.get_by_role("button", name="Check").click()
    expect(page.get_by_role("heading", name="Quality of mixed")).to_be_visible(timeout=60_000)
    which = page.url.split("?")[0].rsplit("/", 1)[1]
    finding = page.locator("[data-image]").first
    # What the neighbours are labelled, as text: no element was made of the name.
    expect(finding).to_contain_text(HOSTILE)
    expect(finding.locator(".neighbour img")).to_have_count(5)
    expect(page.locator("img[src='x']")).to_have_count(0)
    check_accessible(page)
    finding.focus()
    page.keyboard.press("s")
    expect(finding.locator(".verdict")).to_contain_text(HOSTILE)
    expect(page.get_by_text("1 label said")).to_be_visible()
    finding.get_by_role("button", name="Another label").click()
    finding.get_by_label("Right label").fill("reddish")
    page.keyboard.press("Enter")
    expect(finding.locator(".verdict")).to_contain_text("→ reddish")
    row = int(finding.get_attribute("data-image") or "")
    finding.focus()
    page.keyboard.press("x")
    expect(page.get_by_text("1 to drop, 1 label said")).to_be_visible()
    assert client.decisions("quality", which).rows == {row: {"action": "drop", "label": "reddish"}}
    page.get_by_role("tab", name="Outliers").click()
    expect(page.get_by_role("tab", name="Outliers")).to_have_attribute("aria-selected", "true")
    check_accessible(page)


def test_flows_between_two_groupings_show_their_images(
    page: Page, client: Client, embedded: str, clustered: str
) -> None:
    result = client.wait(client.cluster(embedded, clusters=3, seed=1)).result
    assert result is not None
    page.goto(f"/ui/compare/{clustered}/{result['clustering']}")
    expect(page.get_by_text("Adjusted Rand index · chance 0")).to_be_visible()
    flows = page.get_by_role("button", name="from")
    expect(flows.first).to_be_visible()
    check_accessible(page)
    page.locator(".flow[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    words = page.locator(".flow:focus").get_attribute("aria-label") or ""
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    count = int(words.split()[0])
    expect(dialog.get_by_role("link", name="Similar to")).to_have_count(count)
    check_accessible(page)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(page.locator(f'.flow[aria-label="{words}"]')).to_be_focused()


@pytest.mark.usefixtures("clustered")
def test_images_are_sought_by_a_row_and_by_a_file(page: Page, stack: Running, client: Client, embedded: str) -> None:
    page.goto(f"/ui/search?embeddings={embedded}")
    expect(page.get_by_text("reads no text")).to_be_visible()
    expect(page.get_by_label("Words")).to_be_disabled()
    file = sorted((stack.root / "data" / "colours").rglob("*.png"))[0]
    page.locator("input[type=file]").set_input_files(file)
    hits = page.locator("[data-image]")
    expect(hits).to_have_count(36, timeout=60_000)  # The model is loaded first.
    expect(hits.first).to_contain_text(file.name)
    expect(hits.first).to_contain_text("1.000")
    check_accessible(page)
    hits.first.get_by_role("button", name="Similar to").click()
    expect(hits).to_have_count(35)
    expect(page).to_have_url(re.compile("row="))
    expect(page.get_by_text(f"Similar to {file.parent.name}/{file.name}")).to_be_visible()
    place = hits.first.get_by_role("link", name="Group of")
    newest = next(each["id"] for each in client.clusterings() if embedded in each["scored"])
    expect(place).to_have_attribute("href", re.compile(f"/ui/clusterings/{newest}/clusters/"))


def test_a_reader_sees_what_is_decided_and_no_button(
    open_pages: OpenPages,
    tmp_path: Path,
    redis_server: str,
    queue: JobQueue,
    serve_app: Callable[..., str],
) -> None:
    settings = Settings(
        store=tmp_path, redis_url=SecretStr(redis_server), auth="required", extractor_url="http://127.0.0.1:9"
    )
    store = Store(tmp_path)
    vectors = np.eye(8, dtype=np.float32)[[0, 0, 1, 2]]
    embeddings = set_maker(store)("pets", vectors, ["a", "a", "b", "b"], thumbnails=True)
    context = JobContext.local({"embeddings": embeddings}, kind="duplicates")
    which = find_duplicates(context, settings)["duplicates"]
    journal = store.decisions(DUPLICATES, which)
    journal.append(journal.read(), journal.read().deciding({0: {"action": "drop"}}), author="ann")
    with closing(KeyStore.from_url(redis_server)) as keys:
        reader = keys.create("ben", Scope.READ)[1]
    page, watch = open_pages(serve_app(build(settings, queue, store)))
    watch.allowed |= {401, 503}
    page.goto(f"/ui/duplicates/{which}")
    page.get_by_label("API key").fill(reader)
    page.get_by_role("button", name="Log in").click()
    members = page.locator("[data-image]")
    expect(members.first).to_have_class("judged is-drop said")
    expect(page.get_by_text("2 images to drop.")).to_be_visible()
    for name in ("Keep", "Drop", "Undo", "Accept this page"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    members.first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("a")
    page.get_by_text("Export", exact=True).click()
    expect(page.get_by_role("link", name="Paths to drop")).to_be_visible()
    assert journal.read().number == 1
