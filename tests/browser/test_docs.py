"""The page of the routes, in a browser that reaches this service only."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Watch
from tests.contracts.conftest import Running


@pytest.mark.parametrize("service", ["clusterer", "extractor"])
def test_the_routes_are_drawn_without_the_internet(
    service: str, open_pages: Callable[..., tuple[Page, Watch]], stack: Running
) -> None:
    page, _ = open_pages(getattr(stack, service))
    page.goto("/docs")
    expect(page.locator("[data-path='/jobs/{job_id}']").first).to_be_visible()
