"""Logging in, and what pages of others and scripts cannot do with a person's session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusterer.api.clusterings import build
from playwright.sync_api import Page, expect
from pydantic import SecretStr
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from shoal.store import Store

from tests.browser.conftest import Watch, check_accessible

FOREIGN = """async (target) => {
  const body = '{"embeddings": "a", "clusters": 2}';
  await Promise.allSettled([
    fetch(`${target}/cluster`, {method: 'POST', mode: 'no-cors', credentials: 'include', body}),
    fetch(`${target}/session`, {method: 'DELETE', credentials: 'include'}),
  ]);
  await new Promise((done) => {
    const frame = document.createElement('iframe');
    frame.onload = frame.onerror = done;
    frame.src = target;
    document.body.append(frame);
  });
}"""
"""What a page of another site may try."""
CHANGE = """async () => {
  const headers = {'Content-Type': 'application/json'};
  const answer = await fetch('/cluster', {method: 'POST', headers, body: '{}'});
  return [answer.status, (await answer.json()).code];
}"""
OpenPages = Callable[..., tuple[Page, Watch]]


@pytest.fixture
def keys(redis_server: str, queue: JobQueue) -> Iterator[KeyStore]:
    store = KeyStore.from_url(redis_server)
    yield store
    store.close()


@pytest.fixture
def origin(tmp_path: Path, redis_server: str, queue: JobQueue, serve_app: Callable[..., str]) -> str:
    """Address of a clusterer that needs keys. No extractor runs beside it."""
    settings = Settings(
        store=tmp_path, redis_url=SecretStr(redis_server), auth="required", extractor_url="http://127.0.0.1:9"
    )
    return serve_app(build(settings, queue, Store(settings.store)))


def log_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


def test_a_person_logs_in_and_out(open_pages: OpenPages, origin: str, keys: KeyStore) -> None:
    page, watch = open_pages(origin)
    watch.allowed |= {401, 503}
    page.goto("/ui/jobs")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    check_accessible(page)
    log_in(page, "shoal_wrong")
    expect(page.get_by_role("main")).to_contain_text("API keys start with")
    log_in(page, keys.create("ann", Scope.READ)[1])
    expect(page).to_have_url(f"{origin}/ui/jobs")
    expect(page.get_by_text("ann", exact=True)).to_be_visible()

    # A reader gets no way to add or to change; scripts do not see the session.
    expect(page.get_by_role("link", name="Add images")).to_have_count(0)
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.goto("/ui/jobs")
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def test_a_login_leads_to_no_other_site(open_pages: OpenPages, origin: str, keys: KeyStore) -> None:
    page, watch = open_pages(origin)
    watch.allowed |= {401, 503}
    for target in (
        "https://elsewhere.example/",
        "//elsewhere.example/",
        "/\\elsewhere.example/",
        "javascript:alert(1)",
    ):
        page.goto(f"/ui/login?next={target}")
        log_in(page, keys.create("ann", Scope.READ)[1])
        expect(page).to_have_url(f"{origin}/")


def test_another_site_neither_frames_nor_changes(
    open_pages: OpenPages, origin: str, keys: KeyStore, queue: JobQueue, serve_app: Callable[..., str]
) -> None:
    page, watch = open_pages(origin)
    watch.allowed |= {401, 403, 415, 503}
    page.goto("/ui/login")
    log_in(page, keys.create("ann", Scope.SUBMIT)[1])
    expect(page.get_by_text("ann", exact=True)).to_be_visible()
    # The same host under another name is another site.
    other = origin.replace("127.0.0.1", "localhost")
    page.goto(f"{other}/ui/login")
    page.evaluate(FOREIGN, origin)
    # The frame is there, and the browser refused to fill it.
    assert origin not in {frame.url.rstrip("/") for frame in page.frames}
    assert queue.list().jobs == []
    page.goto(f"{origin}/ui/jobs")
    expect(page.get_by_text("ann", exact=True)).to_be_visible()
    # What the browser says of the other site's attempts comes some time after them.
    watch.faults.clear()


def test_a_change_without_the_token_of_the_page_is_refused(open_pages: OpenPages, origin: str, keys: KeyStore) -> None:
    page, watch = open_pages(origin)
    watch.allowed |= {401, 403, 503}
    page.goto("/ui/login")
    log_in(page, keys.create("ann", Scope.SUBMIT)[1])
    expect(page.get_by_text("ann", exact=True)).to_be_visible()
    answer = page.evaluate(CHANGE)
    assert answer == [403, "csrf_failed"]
