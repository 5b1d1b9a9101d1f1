"""Real images for the demo, fetched by the machine's own package tools: nothing of it is kept in this project.

Stamps: Tux Paint's collection (Debian's `tuxpaint-stamps-default`, GPL-2), seven categories.
Emoji: Google's (npm's `emoji-datasource-google`, Apache-2.0), ten categories, where Debian's tools are missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from shoal.cli import debian
from shoal.cli.debian import run
from shoal.errors import PathNotFound

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


def fetch_images(target: Path, dataset: str, say: Callable[[str], None]) -> Path:
    """A folder of images, one sub-folder a class, below ``target``; fetched once.

    Raises
    ------
    PathNotFound
        Neither package tool is on this machine, or the download failed.
    """
    fetchers = {"stamps": (_fetch_stamps, ("apt-get", "dpkg-deb")), "emoji": (_fetch_emoji, ("npm",))}
    wanted = list(fetchers) if dataset == "auto" else [dataset]
    reasons = []
    for name in wanted:
        if name not in fetchers:
            raise PathNotFound(f"--dataset is {name!r}: it is stamps, emoji or auto.")
        fetch, tools = fetchers[name]
        folder = target / name
        if folder.is_dir():
            return folder
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if missing:
            reasons.append(f"{name} need {' and '.join(missing)}")
            continue
        say(f"Fetching {name} …")
        with tempfile.TemporaryDirectory() as work:
            try:
                classes = dict(fetch(Path(work)))
                _lay_out(classes, Path(work), folder)
            except (subprocess.CalledProcessError, OSError) as error:
                reasons.append(f"{name}: {_reason(error)}")
                say(f"They cannot be fetched: {_reason(error)}")
                continue
        return folder
    raise PathNotFound(f"No demo images could be fetched ({'; '.join(reasons)}). `shoal run FOLDER` takes your own.")


def _fetch_stamps(work: Path) -> Iterator[tuple[str, list[Path]]]:
    debian.unpack(STAMPS_PACKAGE, work, "files")
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
