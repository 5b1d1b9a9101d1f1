"""What pages of the documentation say to type works as printed, on one running system."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from shoal import Client

from tests.contracts.conftest import WEB_PORT, Running, paint

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

TEXT_MODEL = "open_clip:ViT-B-32.laion2b_s34b_b79k"
"""The model of the cookbook whose weights are a download. The test types `SMALL_MODEL` in its place."""
SMALL_MODEL = """'{"architecture": "open_clip:ViT-S-32-alt", "weights": "random"}'"""
WEB_SERVER = "127.0.0.1:8765"
"""The cookbook's web server. The test has one at `WEB_PORT`."""


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block that is run, in order."""
    return BLOCK.findall((DOCS / page).read_text())


def commands(block: str) -> str:
    """The lines behind ``$``, with those that they continue on; what is printed is left out."""
    lines: list[str] = []
    for line in block.splitlines():
        if line.startswith("$ ") or (lines and lines[-1].endswith("\\")):
            lines.append(line.removeprefix("$ "))
    return "\n".join(lines)


class Reader:
    """Types what a page says: one shell's variables and one Python session for the whole page."""

    def __init__(self, stack: Running, folder: Path) -> None:
        self._folder = folder
        self._env = {**stack.env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "MPLBACKEND": "agg"}
        self._names: dict[str, Any] = {"__name__": "page"}

    def type(self, language: str, block: str) -> None:
        """Run one block; fails with what it printed."""
        if language == "console":
            self._shell(commands(block))
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self._folder)
                for name, value in self._env.items():
                    patch.setenv(name, value)
                exec(compile(block, "page", "exec"), self._names)

    def close(self) -> None:
        """Close the page's clients."""
        for value in self._names.values():
            if isinstance(value, Client):
                value.close()

    def _shell(self, text: str) -> None:
        kept = self._folder / ".environment"
        script = f"set -euo pipefail\n{text}\nenv -0 > {kept}\n"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        self._env = dict(line.split("=", 1) for line in kept.read_text().split("\0") if line)


@pytest.fixture(scope="module")
def photos(stack: Running) -> Path:
    """The folder in which a reader types: above `photos`, a folder of images below the data root."""
    folder = stack.root / "data"
    paint(folder / "photos")
    return folder


@pytest.fixture(scope="module")
def web(photos: Path) -> Iterator[str]:
    """Host and port of a web server that shares the folder."""
    with ThreadingHTTPServer(("127.0.0.1", WEB_PORT), partial(SimpleHTTPRequestHandler, directory=photos)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{WEB_PORT}"
        server.shutdown()


@pytest.mark.timeout(900)  # A page is many commands; each starts an interpreter.
@pytest.mark.parametrize("page", ["cookbook.md", "notebook.md"])
def test_a_page_works_as_printed(stack: Running, photos: Path, web: str, page: str) -> None:
    for library in ("polars", "duckdb", "open_clip"):
        pytest.importorskip(library)
    reader = Reader(stack, photos)
    found = blocks(page)
    assert found
    with closing(reader):
        for language, block in found:
            reader.type(language, block.replace(TEXT_MODEL, SMALL_MODEL).replace(WEB_SERVER, web))


def test_the_model_that_the_cookbook_names_exists() -> None:
    open_clip = pytest.importorskip("open_clip")
    name, _, tag = TEXT_MODEL.removeprefix("open_clip:").partition(".")
    assert f"--model {TEXT_MODEL})" in (DOCS / "cookbook.md").read_text()
    assert open_clip.get_pretrained_cfg(name, tag)
