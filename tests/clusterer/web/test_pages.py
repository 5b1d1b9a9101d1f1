"""The shell and the files of the pages."""

from __future__ import annotations

import re

import pytest
from clusterer.web.pages import STATIC, files
from fastapi.testclient import TestClient

from tests.clusterer.api.conftest import api

__all__ = ["api"]


@pytest.mark.parametrize("path", ["/", "/ui/jobs", "/ui/login?next=%2Fui%2Fjobs", "/ui/clusterings/a%20b/clusters/3"])
def test_every_page_is_the_shell_under_a_strict_policy(api: TestClient, path: str) -> None:
    answer = api.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "'unsafe" not in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "<script>" not in answer.text
    assert "style=" not in answer.text


def test_all_that_the_shell_names_is_served_and_kept(api: TestClient) -> None:
    named = re.findall(r'(?:href|src)="(/ui/static/[^"]+)"', api.get("/").text)
    assert len(named) == 4
    for path in named:
        answer = api.get(path)
        assert answer.status_code == 200, path
        assert "immutable" in answer.headers["cache-control"]


def test_every_import_of_a_script_is_a_file(api: TestClient) -> None:
    base = files().base
    scripts = [name for name in files().content if name.endswith((".js", ".mjs"))]
    assert {"app.js", "pages/login.js", "vendor/preact/preact.mjs"} <= set(scripts)
    for name in scripts:
        text = (STATIC / name).read_text()
        for imported in re.findall(r"from *['\"](\.[^'\"]+)['\"]", text):
            path = (STATIC / name).parent.joinpath(imported).resolve().relative_to(STATIC.resolve()).as_posix()
            assert api.get(base + path).status_code == 200, f"{name} imports {imported}"


@pytest.mark.parametrize(
    "name", ["../pages.py", "..%2fpages.py", "%2e%2e/pages.py", "pages.py", "vendor/README.md", ""]
)
def test_nothing_else_is_served(api: TestClient, name: str) -> None:
    assert api.get(files().base + name).status_code == 404
    assert api.get(f"/ui/static/0000000000000000/{name}").status_code == 404
