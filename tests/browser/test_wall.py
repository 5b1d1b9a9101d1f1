"""The wall of groups and the page of a group in a real browser."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Page, Route, expect
from shoal import Client

from tests.browser.conftest import Watch, check_accessible
from tests.contracts.conftest import Running

Opened = Callable[..., tuple[Page, Watch]]
HOSTILE = "<img src=x onerror=alert(1)> \u202egnp.exe " + "w" * 150


@pytest.fixture
def own(client: Client, stack: Running, embedded: str) -> Iterator[str]:
    """A clustering of the test's own, whose names it may change."""
    result = client.wait(client.cluster(embedded, clusters=5, seed=3)).result
    assert result is not None
    yield str(result["clustering"])
    httpx.delete(f"{stack.clusterer}/clusterings/{result['clustering']}").raise_for_status()


def cards(page: Page, count: int) -> list[str]:
    """The clusters on the wall, once it shows ``count`` of them; read at once, as the wall may be drawn anew."""
    shown = page.locator(".group-card[data-cluster]")
    expect(shown).to_have_count(count)
    found: list[str] = shown.evaluate_all("cards => cards.map((card) => card.dataset.cluster)")
    return found


def test_groups_are_named_merged_flagged_and_taken_back_by_keyboard(page: Page, client: Client, own: str) -> None:
    page.goto(f"/ui/clusterings/{own}")
    first, second, *_ = cards(page, 5)
    expect(page.locator(".group-card img").first).to_be_visible()
    check_accessible(page)
    page.locator(f"[data-cluster='{first}']").focus()
    page.keyboard.press("n")
    page.keyboard.type(HOSTILE[:200])
    page.keyboard.press("Enter")
    expect(page.locator(f"[data-cluster='{first}'] strong")).to_have_text(HOSTILE[:200])
    assert client.names(own).clusters[int(first)]["name"] == HOSTILE[:200]
    page.keyboard.press("u")
    expect(page.locator(f"[data-cluster='{first}'] strong")).not_to_have_text(HOSTILE[:200])

    page.locator(f"[data-cluster='{first}']").focus()
    page.keyboard.press(" ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    expect(page.get_by_role("region", name="Selected groups")).to_contain_text("2 groups")
    page.locator(".selected-bar summary").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("region", name="Selected groups")).to_contain_text("2 groups")
    page.locator(f"[data-cluster='{second}']").focus()
    page.keyboard.press("m")
    expect(page.get_by_role("dialog")).to_contain_text("Merge 2 groups")
    check_accessible(page)
    page.get_by_role("dialog").get_by_role("button", name="Merge").click()
    expect(page.locator(".wall-count")).to_contain_text("4 groups")
    expect(page.locator(".group-card", has_text="2 merged")).to_have_count(1)
    page.locator(".toast").get_by_role("button", name="Undo").last.click()
    expect(page.locator(".wall-count")).to_contain_text("5 groups")

    page.locator(f"[data-cluster='{second}']").focus()
    page.keyboard.press("f")
    expect(page.locator(f"[data-cluster='{second}'] .chip")).to_have_text("review")
    page.goto(f"/ui/clusterings/{own}?show=flagged")
    assert cards(page, 1) == [second]


def test_somebody_else_s_change_is_not_overwritten(
    open_pages: Opened, stack: Running, client: Client, own: str
) -> None:
    page, watch = open_pages(stack.clusterer)
    watch.allowed.add(412)
    read: list[str] = []
    # The flags to choose from, and the version that the page's changes are made for.
    with page.expect_response(lambda each: each.url.endswith("/names") and (read.append(each.url) or len(read) == 2)):
        page.goto(f"/ui/clusterings/{own}")
    first = cards(page, 5)[0]
    client.name(own, {int(first): {"name": "mine"}})
    page.locator(f"[data-cluster='{first}']").focus()
    page.keyboard.press("n")
    page.keyboard.type("theirs")
    page.keyboard.press("Enter")
    expect(page.locator(".toast")).to_contain_text("Somebody else changed the groups")
    expect(page.locator(f"[data-cluster='{first}'] strong")).to_have_text("mine")


def test_a_change_waits_for_the_one_before(page: Page, client: Client, own: str) -> None:
    page.goto(f"/ui/clusterings/{own}")
    first, second, *_ = cards(page, 5)
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "PATCH" and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/names", hold)
    page.locator(f"[data-cluster='{first}']").focus()
    with page.expect_request(lambda each: each.method == "PATCH"):
        page.keyboard.press("f")
    page.locator(f"[data-cluster='{second}']").focus()
    page.keyboard.press("f")
    held[0].continue_()
    for each in (first, second):
        expect(page.locator(f"[data-cluster='{each}'] .chip")).to_have_text("review")
    assert {each: note["flag"] for each, note in client.names(own).clusters.items()} == dict.fromkeys(
        (int(first), int(second)), "review"
    )


def test_all_groups_in_sight_are_read_again_in_another_order(page: Page, clustered: str) -> None:
    whole = [
        {"cluster": at, "size": 100 - at, "purity": None, "name": f"n{at}", "flag": None, "covers": [], "parts": [at]}
        for at in range(100)
    ]

    def answer(route: Route) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        at, most = int(query["offset"][0]), int(query["limit"][0])
        listed = whole[::-1] if query["sort"] == ["number"] else whole
        route.fulfill(json={"embeddings": "e", "total": 100, "clusters": listed[at : at + most]})

    page.route("**/clusters?**", answer)
    page.set_viewport_size({"width": 2560, "height": 2400})
    page.goto(f"/ui/clusterings/{clustered}")
    expect(page.locator("[data-index='55'] strong")).to_have_text("n55")
    page.get_by_label("Sort").select_option("number")
    expect(page.locator("[data-index='0'] strong")).to_have_text("n99")
    expect(page.locator("[data-index='55'] strong")).to_have_text("n44")


def test_links_keep_the_set_that_is_shown(page: Page, clustered: str, embedded: str) -> None:
    page.goto(f"/ui/clusterings/{clustered}?embeddings={embedded}")
    cards(page, 4)
    of_set = re.compile(f"embeddings={re.escape(embedded)}")
    for link in (page.locator(".covers").first, page.get_by_role("link", name="Map", exact=True)):
        expect(link).to_have_attribute("href", of_set)
    page.locator(".covers").first.click()
    expect(page).to_have_url(of_set)
    expect(page.locator(".group-link").first).to_have_attribute("href", of_set)
    page.get_by_role("tab", name="Farthest").click()
    page.get_by_role("button", name="Next group").click()
    expect(page).to_have_url(of_set)
    expect(page).to_have_url(re.compile("order=farthest"))


def test_a_reader_sees_no_way_to_change(page: Page, clustered: str) -> None:
    reader = {"authenticated": True, "needed": True, "name": "reader", "scope": "read", "csrf": None}
    page.route("**/session", lambda route: route.fulfill(json=reader))
    for path in (f"/ui/clusterings/{clustered}", f"/ui/clusterings/{clustered}/clusters/0"):
        page.goto(path)
        expect(page.locator(".thumb img").first).to_be_visible()
        expect(page.locator(".pick-box, .rename, [aria-label='Name the group']")).to_have_count(0)
        page.locator("[data-index='0']").press(" ")
        expect(page.locator(".selected-bar")).to_have_count(0)
        page.locator("body").press("?")
        expect(page.get_by_role("dialog")).not_to_contain_text("Undo")


def test_groups_are_found_and_sorted(page: Page, clustered: str) -> None:
    page.goto(f"/ui/clusterings/{clustered}")
    cards(page, 4)
    shown = page.locator(".group-card")
    expect(shown.filter(has_text="green")).not_to_have_count(0)
    page.keyboard.press("/")
    page.keyboard.type("red")
    expect(page).to_have_url(re.compile("q=red"))
    expect(page.locator(".wall-count")).to_contain_text("match")
    expect(shown.filter(has_not_text="red")).to_have_count(0)
    expect(shown.filter(has_text="red")).not_to_have_count(0)
    page.goto(f"/ui/clusterings/{clustered}?q=nothing+at+all")
    page.get_by_role("button", name="Show all groups").click()
    cards(page, 4)
    page.get_by_label("Sort").select_option("number")
    expect(page.locator(".group-card").first).to_have_attribute("data-cluster", "0")
    page.keyboard.press("?")
    page.locator("body").press("?")
    expect(page.get_by_role("dialog")).to_contain_text("Merge the selected groups")


def test_images_are_looked_at_and_moved(page: Page, client: Client, own: str) -> None:
    page.goto(f"/ui/clusterings/{own}")
    first = cards(page, 5)[0]
    page.locator(f"[data-cluster='{first}']").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"/clusters/{first}$"))
    members = page.locator(".member[data-row]")
    expect(members.first.locator("img")).to_be_visible()
    check_accessible(page)
    row = str(members.first.get_attribute("data-row"))
    members.first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Distance from the centre")
    expect(dialog.locator(".similar button").first).to_be_visible()
    check_accessible(page)
    place = dialog.get_by_role("status")
    expect(place).to_contain_text("1 of ")
    page.keyboard.press("ArrowRight")
    expect(place).to_contain_text("2 of ")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    members.first.focus()
    page.keyboard.press(" ")
    page.keyboard.press("m")
    page.locator(".choice").first.click()
    expect(page.locator(f".member[data-row='{row}']")).to_have_count(0)
    assert list(client.moves(own)) == [int(row)]
    page.keyboard.press("u")
    expect(page.locator(f".member[data-row='{row}']")).to_have_count(1)
    page.get_by_role("tab", name="Farthest").click()
    expect(page).to_have_url(re.compile("order=farthest"))


def test_the_wall_fits_a_phone(open_pages: Opened, stack: Running, clustered: str) -> None:
    page, _ = open_pages(stack.clusterer, "phone", dark=True)
    for path in (f"/ui/clusterings/{clustered}", f"/ui/clusterings/{clustered}/clusters/0"):
        page.goto(path)
        expect(page.locator(".thumb img").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        check_accessible(page)
