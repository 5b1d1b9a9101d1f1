"""From images to groups by form: pick or send images, choose, watch, and look at what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, Request, expect
from shoal import Client

from tests.browser.conftest import Watch, check_accessible, screenshot
from tests.contracts.conftest import Running

JOB = re.compile("/ui/jobs/[0-9a-f]+$")
OpenPages = Callable[..., tuple[Page, Watch]]
LONG_MS = 120_000


def choose_groups(page: Page, number: int) -> None:
    """Raw pixels, and so many groups."""
    page.get_by_role("radio", name="raw_pixels").check()
    page.get_by_role("radio", name="This many").check()
    page.get_by_label("Number of groups").fill(str(number))


def test_a_folder_becomes_groups(page: Page, stack: Running) -> None:
    page.goto("/ui/new?from=folder")
    folder = page.get_by_role("radio", name="colours")
    expect(folder).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_be_disabled()
    page.get_by_role("button", name="Open colours").click()
    expect(page.get_by_role("radio", name="All of this folder")).to_be_visible()
    page.get_by_role("button", name="Data folder").click()
    folder.check()
    expect(page.get_by_label("Path")).to_have_value("colours")
    choose_groups(page, 3)
    check_accessible(page)
    page.get_by_role("button", name="Start").click()
    expect(page).to_have_url(JOB)
    groups = page.get_by_role("link", name="See the groups")
    expect(groups).to_have_attribute("href", re.compile("^/ui/clusterings/c-"), timeout=LONG_MS)
    check_accessible(page)


def test_what_the_api_refuses_stands_at_its_field(open_pages: OpenPages, stack: Running, embedded: str) -> None:
    page, watch = open_pages(stack.clusterer)
    watch.allowed.add(422)
    page.goto(f"/ui/new?set={embedded}")
    expect(page.get_by_role("heading", name="Make groups")).to_be_visible()
    page.get_by_role("radio", name="This many").check()
    number = page.get_by_label("Number of groups")
    number.fill("1")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_role("alert").filter(has_text="Nothing was started")).to_be_focused()
    expect(number).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".field").filter(has=number).locator(".error")).to_contain_text("2")
    check_accessible(page)


def test_rows_may_be_reduced_before_they_are_grouped(page: Page, embedded: str) -> None:
    page.goto(f"/ui/new?set={embedded}")
    page.get_by_role("radio", name="This many").check()
    page.get_by_label("Number of groups").fill("3")
    page.get_by_text("More settings").click()
    page.get_by_label("Before grouping").select_option("spectral")
    with page.expect_request(lambda request: request.method == "POST" and "/cluster" in request.url) as sent:
        page.get_by_role("button", name="Start").click()
    assert (sent.value.post_data_json or {})["reduce"] == "spectral"
    groups = page.get_by_role("link", name="See the groups")
    expect(groups).to_be_visible(timeout=LONG_MS)
    page.goto(f"{groups.get_attribute('href')}/figures")
    expect(page.get_by_text("Taken after “spectral”")).to_be_visible()


def test_a_network_may_group_and_its_options_replace_those_of_k_means(
    page: Page, embedded: str, tmp_path: Path
) -> None:
    page.goto(f"/ui/new?set={embedded}")
    page.get_by_role("radio", name="This many").check()
    page.get_by_label("Number of groups").fill("3")
    page.get_by_text("More settings").click()
    page.get_by_label("Restarts").fill("4")
    page.get_by_label("Grouped by").select_option("turtle")
    expect(page.get_by_label("Restarts")).to_have_count(0)
    expect(page.get_by_label("Sizes of groups")).to_have_value("auto")
    page.get_by_label("Steps").fill("20")
    page.get_by_label("Learning rate").fill("0.01")
    page.get_by_label("Seeds").fill("0")
    screenshot(page, tmp_path, "method")
    check_accessible(page)
    with page.expect_request(lambda request: request.method == "POST" and "/cluster" in request.url) as sent:
        page.get_by_role("button", name="Start").click()
    body = sent.value.post_data_json or {}
    assert body["heads"] == {"entropy": "auto", "steps": 20, "learning_rate": 0.01}
    assert (body["method"], "kmeans" in body) == ("turtle", False)
    groups = page.get_by_role("link", name="See the groups")
    expect(groups).to_be_visible(timeout=LONG_MS)
    page.goto(f"{groups.get_attribute('href')}/figures")
    expect(page.get_by_text("TURTLE, entropy")).to_be_visible()


def test_methods_that_find_the_number_of_groups_ask_for_none(page: Page, embedded: str, tmp_path: Path) -> None:
    page.goto(f"/ui/new?set={embedded}")
    page.get_by_role("radio", name="This many").check()
    page.get_by_text("More settings").click()
    page.get_by_label("Before grouping").select_option("auto")
    page.get_by_label("Grouped by").select_option("leiden")
    expect(page.get_by_label("Before grouping").locator("option")).to_have_text(["Nothing", re.compile("walk"), "UMAP"])
    expect(page.get_by_role("radio", name="As many as fit")).to_be_checked()
    expect(page.get_by_label("At most")).to_have_count(0)
    expect(page.get_by_label("Resolution")).to_be_visible()
    page.get_by_role("radio", name="This many").check()
    expect(page.get_by_label("Grouped by")).to_have_value("kmeans")
    page.get_by_label("Grouped by").select_option("hdbscan")
    expect(page.get_by_label("Resolution")).to_have_count(0)
    page.get_by_label("Smallest group").fill("5")
    screenshot(page, tmp_path, "density")
    check_accessible(page)
    with page.expect_request(lambda request: request.method == "POST" and "/cluster" in request.url) as sent:
        page.get_by_role("button", name="Start").click()
    body = sent.value.post_data_json or {}
    assert {name: value for name, value in body.items() if name != "embeddings"} == {
        "method": "hdbscan",
        "graph": {"min_cluster_size": 5},
    }
    expect(page.get_by_role("link", name="See the groups")).to_be_visible(timeout=LONG_MS)


def test_methods_are_compared_by_a_sweep(page: Page, embedded: str, tmp_path: Path) -> None:
    page.goto(f"/ui/new?set={embedded}&kind=sweep")
    page.get_by_label("Numbers of groups").fill("3")
    page.get_by_text("More settings").click()
    page.get_by_label("Seeds").fill("0")
    page.get_by_label("Grouped by").select_option(label="All of these, to compare")
    page.get_by_label("Sizes of groups").select_option("equal")
    page.get_by_label("Steps").fill("5")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("link", name="See the sweep").click(timeout=LONG_MS)
    expect(page.get_by_role("cell", name="TURTLE").first).to_be_visible()
    expect(page.get_by_role("cell", name="k-means").first).to_be_visible()
    expect(page.get_by_role("columnheader", name="Agreement with nearest images")).to_be_visible()
    screenshot(page, tmp_path, "methods")
    check_accessible(page)


def test_a_point_without_groups_says_why_beside_the_others(page: Page, client: Client, embedded: str) -> None:
    graph = {"min_cluster_size": 30}
    job = client.wait(client.sweep(embedded, clusters=3, method=["kmeans", "hdbscan"], graph=graph, seed=0))
    assert job.result is not None, job.error
    page.goto(f"/ui/sweeps/{job.result['sweep']}")
    why = page.get_by_role("cell", name=re.compile("min_cluster_size"))
    expect(why).to_have_count(1)
    expect(page.get_by_role("row").filter(has=why)).to_contain_text("HDBSCAN")
    page.get_by_role("row").filter(has=why).get_by_role("button", name="Open").click()
    expect(page.locator("p", has_text="min_cluster_size")).to_be_visible()
    expect(page.get_by_role("button", name="Make these groups")).to_have_count(0)
    check_accessible(page)


def test_images_of_this_computer_are_sent_once(page: Page, stack: Running) -> None:
    sent: list[str] = []
    sets: set[str] = set()

    def count(request: Request) -> None:
        if request.method == "PUT" and "/parts/" in request.url:
            sent.append(request.url)

    page.on("request", count)
    for turn in range(2):
        page.goto("/ui/new")
        with page.expect_file_chooser() as chooser:
            page.get_by_text("Choose a folder").click()
        chooser.value.set_files(stack.root / "data" / "colours")
        expect(page.get_by_text("36 images")).to_be_visible()
        expect(page.locator(".previews img").first).to_be_visible()
        page.get_by_role("radio", name="raw_pixels").check()
        page.get_by_role("radio", name="None yet").check()
        page.get_by_role("button", name="Start").click()
        expect(page).to_have_url(JOB)
        expect(page.get_by_text("36 images embedded")).to_be_visible(timeout=LONG_MS)
        link = page.get_by_role("link", name="See the set")
        expect(link).to_have_attribute("href", re.compile("^/ui/embeddings/colours-"))
        sets.add(str(link.get_attribute("href")))
        assert (len(sent), len(sets)) == (1, 1), turn


def test_a_sweep_is_drawn_and_its_points_are_reached_by_key(page: Page, embedded: str, tmp_path: Path) -> None:
    page.goto(f"/ui/new?set={embedded}&kind=sweep")
    page.get_by_label("Numbers of groups").fill("2, 3, 5")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("link", name="See the sweep").click(timeout=LONG_MS)
    expect(page.get_by_role("heading", name="Sweep of colours")).to_be_visible()
    expect(page.get_by_role("row")).to_have_count(4)
    plot = page.get_by_role("group", name="ARI against groups")
    plot.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(plot.locator(".tip")).to_contain_text("groups 3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Point 1")).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?point=1$"))
    page.get_by_label("Figure").select_option(label="Purity")
    expect(page.get_by_role("heading", name="Purity", exact=True)).to_be_visible()
    check_accessible(page)
    screenshot(page, tmp_path, "sweep")


def test_all_figures_stand_with_chance_and_a_sentence(page: Page, clustered: str) -> None:
    page.goto(f"/ui/clusterings/{clustered}/figures")
    ari = page.locator(".figure").filter(has_text="ARI").first
    expect(ari).to_contain_text("chance 0")
    expect(ari.locator("p")).to_contain_text("labels")
    expect(page.get_by_role("row").filter(has_text="group")).not_to_have_count(0)
    page.get_by_role("tab", name="What is confused").click()
    expect(page).to_have_url(re.compile("labels=confusion"))
    expect(page.get_by_role("heading", name="Iterations")).to_be_visible()
    check_accessible(page)
