"""Names that anybody may have written, of files, folders, labels and clusters: every page shows them as text."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from shoal import Client

from tests.browser.conftest import MODEL
from tests.contracts.conftest import Running

HTML = '<img src=x onerror="document.title=1">'
OVERRIDE = "\u202egpj.exe"
LONG = "x" * 260
FOLDER = f"{HTML}{OVERRIDE}"
FILE = f"{HTML}{OVERRIDE}{'y' * 120}.png"
LABEL = f'"><script>document.title=2</script>{OVERRIDE}{LONG}'
NAME = f"<script>document.title=3</script>{OVERRIDE}{'z' * 150}"
COLOURS = ((200, 40, 40), (40, 180, 60), (40, 60, 200))
PER_COLOUR = 4

SETTLED = "() => document.querySelector('main h1') && !document.querySelector('.loading, [aria-busy=true]')"
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Until what watches the size of the page has drawn it anew."""
FAULTS = r"""() => {
  const found = [...document.querySelectorAll('img[src=x], body script, main style')].map((each) => each.outerHTML);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const { data, parentElement } = texts.currentNode;
    // An override that is not isolated turns around what follows it.
    const inside = parentElement.closest('bdi, [dir=auto], option, pre, title');
    if (data.includes('\u202e') && !inside && !parentElement.textContent.startsWith('\u2068')) {
      found.push(parentElement.outerHTML);
    }
  }
  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) found.push(`${scrollWidth} px of content in ${clientWidth} px`);
  return found.map((each) => each.slice(0, 400));
}"""
"""What a name did to the page."""


@dataclass(frozen=True)
class Ids:
    """What is in the store with such names."""

    embeddings: str
    clustering: str
    other: str
    sweep: str
    duplicates: str
    quality: str
    job: str


@pytest.fixture(scope="module")
def ids(stack: Running, client: Client) -> Ids:
    """A set, and everything that can be made of it."""
    write_images(stack.root / "data" / "hostile")
    job = client.extract("hostile", model=MODEL, labels={"file": "hostile/labels.csv"})
    embeddings = str(made(client, job.id)["embeddings"])
    jobs = [client.cluster(embeddings, clusters=k, seed=0) for k in (3, 2)]
    jobs += [client.sweep(embeddings, clusters=[2, 3]), client.duplicates(embeddings), client.quality(embeddings)]
    results = [made(client, each.id) for each in jobs]
    names = ("clustering", "clustering", "sweep", "duplicates", "quality")
    clustering, other, sweep, duplicates, quality = (str(each[name]) for each, name in zip(results, names, strict=True))
    client.name(clustering, {0: {"name": NAME, "flag": f"{HTML}{OVERRIDE}"}})
    return Ids(embeddings, clustering, other, sweep, duplicates, quality, job.id)


def write_images(folder: Path) -> None:
    """Images of three colours with a file of labels."""
    rows = []
    for number, colour in enumerate(COLOURS):
        for copy in range(PER_COLOUR):
            path = Path(FOLDER) / f"{number}{copy}{'w' * 200}" / FILE
            (folder / path).parent.mkdir(parents=True)
            Image.new("RGB", (40, 30), tuple(min(255, each + 9 * copy) for each in colour)).save(folder / path)
            rows.append([path.as_posix(), f"{LABEL}{number}"])
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label"], *rows])


def made(client: Client, job: str) -> dict[str, object]:
    """The result of a job."""
    result = client.wait(client.job(job)).result
    assert result is not None
    return dict(result)


PAGES = {
    "home": ("/", []),
    "jobs": ("/ui/jobs", []),
    "job": ("/ui/jobs/{job}", []),
    "new": ("/ui/new?from=folder&path=hostile/x", [FOLDER]),
    "embeddings": ("/ui/embeddings/{embeddings}", []),
    "clustering": ("/ui/clusterings/{clustering}", [NAME]),
    "cluster": ("/ui/clusterings/{clustering}/clusters/0", [NAME, FILE]),
    "map": ("/ui/clusterings/{clustering}/map", [NAME]),
    "figures": ("/ui/clusterings/{clustering}/figures", [f"{LABEL}0"]),
    "compare": ("/ui/compare/{clustering}/{other}", [NAME[:20]]),
    "sweep": ("/ui/sweeps/{sweep}", []),
    "duplicates": ("/ui/duplicates/{duplicates}", [HTML]),
    "quality": ("/ui/quality/{quality}", []),
    "search": ("/ui/search?embeddings={embeddings}&row=0", [FILE]),
}
"""Each page's path, and what of the names it shows."""


@pytest.mark.parametrize("name", PAGES)
def test_names_are_text(name: str, page: Page, ids: Ids) -> None:
    path, shown = PAGES[name]
    page.goto(path.format(**vars(ids)))
    page.wait_for_function(SETTLED)
    for text in shown:
        expect(page.get_by_role("main")).to_contain_text(text)
    assert page.evaluate(FAULTS) == []
    expect(page).to_have_title(re.compile("· Shoal$"))
    page.set_viewport_size({"width": 390, "height": 800})
    page.evaluate(DRAWN)
    assert page.evaluate(FAULTS) == []
