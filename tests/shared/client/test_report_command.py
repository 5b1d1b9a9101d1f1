"""`shoal report` and `shoal open`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

import pytest
from shoal.cli import app
from shoal.store import Store
from typer.testing import CliRunner

from tests.shared.client.conftest import Script

GOLDEN = Path(__file__).parents[1] / "store" / "golden"


def run(*arguments: str, url: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"SHOAL_CLUSTERER_URL": url, "SHOAL_EXTRACTOR_URL": url})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was asked to open."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(addresses.append(address)) or True)
    return addresses


def test_the_report_is_saved_as_a_file(script: Script, tmp_path: Path) -> None:
    script.reply = lambda path, _: (200, b"<!doctype html>" if path.endswith("/report") else b"{}")
    found = run("report", "c-1", "--output", str(tmp_path / "mine.html"), url=script.url)
    assert found.exit_code == 0, found.output
    assert (tmp_path / "mine.html").read_text() == "<!doctype html>"
    assert "15 bytes" in found.output
    assert run("report", "c-1", "--output", str(tmp_path), url=script.url).exit_code == 0
    assert (tmp_path / "c-1.html").is_file()


def test_no_file_is_left_for_a_clustering_that_is_not_there(script: Script, tmp_path: Path) -> None:
    script.answers = [
        (404, {"code": "clustering_not_found", "detail": "Clustering 'c-1' does not exist.", "status": 404})
    ]
    found = run("report", "c-1", "--output", str(tmp_path / "mine.html"), url=script.url)
    assert found.exit_code != 0
    assert not list(tmp_path.iterdir())


def test_the_page_of_a_clustering_opens(script: Script, opened: list[str]) -> None:
    script.reply = lambda path, _: (200, b"{}")
    assert run("open", "c-1", url=script.url).exit_code == 0
    assert opened == [f"{script.url}/ui/clusterings/c-1"]
    assert run("open", "--no-browser", url=script.url).output.strip() == f"{script.url}/"
    assert len(opened) == 1


def test_without_a_service_the_stored_report_opens(opened: list[str]) -> None:
    nobody = "http://127.0.0.1:9"
    found = run("open", "c-0001", "--store", str(GOLDEN), url=nobody)
    assert found.exit_code == 0, found.output
    assert opened == [Store(GOLDEN).layout.clustering("c-0001").report_html.resolve().as_uri()]
    missing = run("open", "c-none", "--store", str(GOLDEN), url=nobody)
    assert missing.exit_code != 0
    assert "shoal up" in str(missing.exception)
