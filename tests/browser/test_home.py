"""What a person sees first: how to begin, what there is, what runs and how to stop it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from shoal import Client

from tests.browser.conftest import Watch, check_accessible
from tests.contracts.conftest import Running

API_JOB = re.compile(r"//[^/]+/jobs/a1$")
OpenPages = Callable[..., tuple[Page, Watch]]
EMPTY = {
    "**/ui/extractor/embeddings": {"embeddings": []},
    "**/clusterings": {"clusterings": []},
    "**/sweeps": {"sweeps": []},
    "**/jobs?*": {"jobs": [], "next_cursor": None},
}
PROGRESS = {"stage": "kmeans", "total": 120, "unit": "iterations", "rate": 2.5}
JOB: dict[str, Any] = {
    "id": "a1",
    "kind": "cluster",
    "state": "running",
    "created_at": "2026-11-27T00:00:00Z",
    "started_at": "2026-11-27T00:00:01Z",
    "finished_at": None,
    "attempt": 1,
    "cancel_requested": False,
    "progress": {**PROGRESS, "done": 30, "eta_s": 36.0, "detail": {"inertia": 12.5}},
    "workers": 1,
    "waiting_for": None,
    "request": {"embeddings": "birds", "clusters": 7},
    "result": None,
    "error": None,
    "callback": None,
    "links": {},
}


def answer(page: Page, answers: dict[str, Any]) -> None:
    """Let the page read ``answers`` in place of the API's."""
    for pattern, body in answers.items():
        page.route(pattern, partial(fulfil, body))


def fulfil(body: Any, route: Route) -> None:
    """Answer with ``body``."""
    route.fulfill(json=body)


def test_an_empty_store_says_how_images_get_in(open_pages: OpenPages, stack: Running) -> None:
    for size in ("wide", "phone"):
        page, _ = open_pages(stack.clusterer, size)
        answer(page, EMPTY)
        page.goto("/")
        expect(page.get_by_role("heading", name="Welcome to Shoal")).to_be_visible()
        expect(page.get_by_text("Drop images or a folder here")).to_be_visible()
        expect(page.get_by_text("shoal run photos -k auto")).to_be_visible()
        check_accessible(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a folder").click()
    chooser.value.set_files(stack.root / "data" / "colours")
    expect(page.get_by_role("heading", name="Add images")).to_be_visible()
    expect(page.get_by_text("36 images")).to_be_visible()


def test_home_shows_groups_with_covers_and_leads_to_them(page: Page, clustered: str, embedded: str) -> None:
    page.goto("/")
    card = page.get_by_role("article").filter(has=page.get_by_role("heading", name="4 groups of colours")).first
    expect(card.locator("img").first).to_be_visible()
    expect(card).to_contain_text("chance 0")
    check_accessible(page)
    page.get_by_role("heading", name="colours", exact=True).get_by_role("link").first.click()
    expect(page).to_have_url(f"/ui/embeddings/{embedded}")
    expect(page.locator(".grid img").first).to_be_visible()
    expect(page.get_by_role("tab", name="Images")).to_contain_text("36")
    page.get_by_role("tab", name="Groups made of it").click()
    expect(page.locator(f"a[href='/ui/clusterings/{clustered}']").first).to_contain_text("4 groups")
    page.get_by_role("tab", name="Facts").click()
    expect(page.get_by_text(embedded)).to_be_visible()
    check_accessible(page)


def test_what_runs_is_live_and_can_be_cancelled(page: Page, clustered: str) -> None:
    now = {**JOB}
    later = {**JOB, "progress": {**JOB["progress"], "done": 60, "eta_s": 24.0}}
    events = "".join(f"event: job\ndata: {json.dumps(each)}\n\n" for each in (now, later))
    deleted: list[str] = []

    def job(route: Route) -> None:
        if route.request.method == "DELETE":
            deleted.append(route.request.url)
            later["cancel_requested"] = True
        route.fulfill(json=later)

    page.route("**/jobs?*", lambda route: route.fulfill(json={"jobs": [later], "next_cursor": None}))
    page.route(API_JOB, job)
    page.route("**/jobs/a1/events", lambda route: route.fulfill(content_type="text/event-stream", body=events))
    page.goto("/")
    running = page.get_by_label("Running now")
    expect(running).to_contain_text("Make 7 groups of")
    expect(running).to_contain_text("60 of 120 iterations · 2.5 iterations per second · about 24 s left")
    expect(running.get_by_role("progressbar", name="Making groups")).to_have_attribute("value", "60")
    running.get_by_role("link", name="Make 7 groups of birds").click()
    expect(page.get_by_text("inertia 12.5")).to_be_visible()
    check_accessible(page)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_role("status").filter(has_text="stops within seconds")).to_be_visible()
    assert len(deleted) == 1
    expect(page.locator("h1")).to_contain_text("stopping")


def test_a_failed_job_says_why_and_what_to_do(page: Page, client: Client, embedded: str) -> None:
    error = {
        "code": "out_of_memory",
        "title": "Out of memory",
        "detail": "It needs 4 GiB: raise `memory_limit`.",
        "retryable": False,
    }
    failed = {**JOB, "state": "failed", "finished_at": "2026-11-27T00:01:00Z", "error": error}
    page.route(API_JOB, lambda route: route.fulfill(json=failed))
    page.goto("/ui/jobs/a1")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("raise `memory_limit`")
    expect(alert).to_contain_text("out_of_memory")
    page.goto("/ui/jobs?state=succeeded")
    item = page.get_by_role("listitem").filter(has_text="Embed colours").first
    item.get_by_role("link", name="See the set").click()
    expect(page).to_have_url(f"/ui/embeddings/{embedded}")


@pytest.mark.parametrize("scope", ["read", "submit"])
def test_a_reader_sees_nothing_that_changes(page: Page, clustered: str, embedded: str, scope: str) -> None:
    session = {"authenticated": True, "needed": True, "name": "me", "scope": scope, "csrf": "x"}
    page.route("**/session", lambda route: route.fulfill(json=session))
    reads = scope == "read"
    for path in ("/", "/ui/jobs", f"/ui/embeddings/{embedded}", f"/ui/clusterings/{clustered}/figures"):
        page.goto(path)
        expect(page.locator("main h1")).to_be_visible()
        expect(page.locator(".loading")).to_have_count(0)
        expect(page.get_by_role("button", name="Delete")).to_have_count(0)
        ways_in = expect(page.locator("a[href^='/ui/new']"), path)
        ways_in.to_have_count(0) if reads else ways_in.not_to_have_count(0)
    page.goto("/ui/new")
    expect(page.get_by_text("This key may only read")).to_have_count(int(reads))


def test_hostile_names_are_text(page: Page, clustered: str) -> None:
    name = '<img src=x onerror="document.title=1">\u202egnp.exe' + "x" * 300
    sets = {
        "embeddings": [
            {
                "id": "e1",
                "name": name,
                "complete": True,
                "rows": 2,
                "failed": 0,
                "classes": 0,
                "dim": 3,
                "thumbnails": False,
                "finished_at": None,
                "source": {"kind": "images", "path": f"photos/{name}"},
                "model": {"name": name},
            }
        ]
    }
    answer(page, {"**/ui/extractor/embeddings": sets, "**/clusterings": {"clusterings": []}})
    page.goto("/")
    card = page.get_by_role("article")
    expect(card).to_contain_text(name)
    expect(page).to_have_title("Groups · Shoal")
    expect(page.locator("img[src=x]")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(card.locator("bdi").first).to_have_attribute("title", name)
