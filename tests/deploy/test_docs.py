"""The documentation: it builds without a warning, needs no other host, and knows every error and setting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shoal.errors import ShoalError
from shoal.settings import Settings

ROOT = Path(__file__).parents[2]
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc=["']?(https?:)?//|<link[^>]*\shref=["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    assert [page.name for page in pages if LOADED.search(page.read_text())] == []


def test_every_error_code_is_on_the_page_of_errors(site: Path) -> None:
    page = (site / "reference/errors.html").read_text()
    listed = sorted(codes_below(ShoalError) - {"no_keys"})  # An API ends with it before it answers anybody.
    assert [code for code in listed if code not in page] == []


def test_every_setting_is_on_the_page_of_settings(site: Path) -> None:
    page = (site / "reference/settings.html").read_text()
    names = [str(field.validation_alias) for field in Settings.model_fields.values()]
    assert [name for name in names if f"<code>{name}</code>" not in page] == []


def test_every_document_is_reached_from_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text()
    assert [page for page in ("architecture.html", "format.html", "security.html") if page not in home] == []


def codes_below(error: type[ShoalError]) -> set[str]:
    """The codes of an error and of all that inherit from it."""
    return {error.code}.union(*(codes_below(each) for each in error.__subclasses__()))
