"""`shoal demo`: cluster real images, downloaded with the package tools of this machine.

Stamps: Tux Paint's collection (Debian's `tuxpaint-stamps-default`, GPL-2), seven categories.
Emoji: Google's (npm's `emoji-datasource-google`, Apache-2.0), ten categories, where Debian's tools are missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.flags import expanded
from shoal.cli.jobs import DEFAULT_MODEL
from shoal.cli.output import duration, err, metrics_table, out
from shoal.cli.request import RunRequest, Source
from shoal.cli.run import explaining_stops, extract_and_cluster, result_files
from shoal.cli.session import Session
from shoal.cli.summary import quoted
from shoal.errors import PathNotFound
from shoal.settings import Settings
from shoal.store import Store

STAMPS_PACKAGE = "tuxpaint-stamps-default"
STAMPS = {
    "birds": "animals/birds",
    "mammals": "animals/mammals",
    "fruit": "food/fruit",
    "vegetables": "food/vegetables",
    "flowers": "plants/flowers",
    "vehicles": "vehicles",
    "money": "symbols/money",
}
STAMP_VARIANTS = ("_mirror", "_flip", "/cartoon/")
EMOJI_PACKAGE = "emoji-datasource-google@16"
EMOJI = (
    "animal-bird",
    "animal-mammal",
    "animal-marine",
    "body-parts",
    "country-flag",
    "face-smiling",
    "food-fruit",
    "food-vegetable",
    "time",
    "transport-ground",
)
EMOJI_PER_CLASS = 60
DEBIAN_TOOLS = ("apt-get", "dpkg-deb")

# A few hundred images: so few that one k-means run says little, and that PCA's small components are mostly noise.
DEMO_OPTIONS: dict[str, Any] = {
    "pca": {"components": 32},
    "kmeans": {"restarts": 5},
    "seeds": list(range(10)),
}


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for the images, the store and the contact sheet.", callback=expanded)
    ] = Path("demo"),
    dataset: Annotated[
        str, typer.Option(help="Images to use: stamps, emoji, or auto (the first that can be downloaded).")
    ] = "auto",
) -> None:
    """Download example images, cluster them with a pretrained model and with raw pixels, and compare the groups."""
    started = time.monotonic()
    source = Source.of(fetch_images(output / "images", dataset, err.print))
    store = Store.of(Settings(), output / "store")
    session = Session(source.root, output / "models", store.root, command="shoal demo")
    with explaining_stops(session, source, store, quoted("shoal", *sys.argv[1:])):
        err.print("Starting Shoal …")
        with session:
            asks = (
                RunRequest(source, model, over=1.0, options=DEMO_OPTIONS) for model in ("raw_pixels", DEFAULT_MODEL)
            )
            raw, learnt = (extract_and_cluster(session, ask, store) for ask in asks)
            for found, what in ((raw, "raw pixels, the baseline"), (learnt, DEFAULT_MODEL)):
                metrics = store.clustering(found.clustering).metrics()
                out.print(metrics_table(metrics, f"{source.folder.name}: {what}"))
            sheet, report = output / "contact-sheet.png", output / "report.html"
            files = result_files(store, learnt.clustering, sheet, report)
            out.print(f"contact sheet: {sheet}\nreport: {report}", highlight=False, soft_wrap=True)
            out.print(
                f"Done in {duration(time.monotonic() - started)}. Open {files['report']} in a browser.", soft_wrap=True
            )


def fetch_images(target: Path, dataset: str, say: Callable[[str], None]) -> Path:
    """A folder of images below ``target``, one subfolder per class; downloaded once.

    Raises
    ------
    PathNotFound
        Neither package tool is on this machine, or the download failed.
    """
    fetchers = {"stamps": (_fetch_stamps, DEBIAN_TOOLS), "emoji": (_fetch_emoji, ("npm",))}
    wanted = list(fetchers) if dataset == "auto" else [dataset]
    reasons = []
    for name in wanted:
        if name not in fetchers:
            raise PathNotFound(f"`--dataset` is {name!r}; it must be stamps, emoji or auto.")
        fetch, tools = fetchers[name]
        folder = target / name
        if folder.is_dir():
            return folder
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if missing:
            reasons.append(f"{name} need {' and '.join(missing)}")
            continue
        say(f"Downloading {name} …")
        with tempfile.TemporaryDirectory() as work:
            try:
                classes = dict(fetch(Path(work)))
                _lay_out(classes, Path(work), folder)
            except (subprocess.CalledProcessError, OSError) as error:
                reasons.append(f"{name}: {_reason(error)}")
                say(f"Cannot download {name}: {_reason(error)}")
                continue
        return folder
    raise PathNotFound(
        f"No demo images could be downloaded ({'; '.join(reasons)}). Use your own images: `shoal run FOLDER`."
    )


def _fetch_stamps(work: Path) -> Iterator[tuple[str, list[Path]]]:
    unpack_debian(STAMPS_PACKAGE, work, "files")
    root = work / "files/usr/share/tuxpaint/stamps"
    for label, folder in STAMPS.items():
        images = sorted((root / folder).rglob("*.png"))
        yield label, [path for path in images if not any(part in path.as_posix() for part in STAMP_VARIANTS)]


def _fetch_emoji(work: Path) -> Iterator[tuple[str, list[Path]]]:
    run(["npm", "pack", "--silent", EMOJI_PACKAGE], work)
    with tarfile.open(next(work.glob("*.tgz"))) as archive:
        archive.extractall(work, filter="data")
    emoji = json.loads((work / "package/emoji.json").read_text())
    for label in EMOJI:
        rows = [row for row in emoji if row["subcategory"] == label and row["has_img_google"]]
        rows.sort(key=lambda row: row["sort_order"])
        yield label, [work / "package/img/google/64" / row["image"] for row in rows[:EMOJI_PER_CLASS]]


def _lay_out(classes: dict[str, list[Path]], work: Path, folder: Path) -> None:
    # Into a folder of another name first: a fetch that breaks off must not look like a finished one.
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for label, images in classes.items():
        (partial / label).mkdir(parents=True)
        for image in images:
            # Sub-folders reuse names (`dollar/1.png`, `euro/1.png`): the copies carry the folders' names.
            shutil.copyfile(image, partial / label / "-".join(image.relative_to(work).parts[-3:]))
    partial.rename(folder)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or "").strip().splitlines()
        return said[-1] if said else str(error)
    return str(error)


def unpack_debian(package: str, work: Path, folder: str) -> Path:
    """Download ``package`` into ``work`` and unpack it into ``folder`` there.

    Raises
    ------
    subprocess.CalledProcessError
        It cannot be downloaded; ``stderr`` says why.
    FileNotFoundError
        One of `DEBIAN_TOOLS` is not on this machine.
    """
    try:
        run(["apt-get", "download", package], work)
    except subprocess.CalledProcessError:
        _download_with_own_lists(package, work)
    run(["dpkg-deb", "-x", next(work.glob("*.deb")).name, folder], work)
    return work / folder


def _download_with_own_lists(package: str, work: Path) -> None:
    """Download where the machine's lists of packages are empty, as in a fresh container, or too old.

    The new lists are kept beside the download: the machine's own need root, and are not ours to change.
    """
    (work / "apt/lists/partial").mkdir(parents=True)
    (work / "apt/cache/archives/partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={work}/apt/lists", "-o", f"Dir::Cache={work}/apt/cache"]
    with suppress(subprocess.CalledProcessError):  # The source that does not answer may not be the one that is needed.
        run(["apt-get", *options, "update"], work)
    run(["apt-get", *options, "download", package], work)


def run(words: list[str], work: Path) -> None:
    """Run a command in ``work``, its output kept for errors."""
    subprocess.run(words, cwd=work, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
