"""Planted copies among Tux Paint's stamps and emoji: what is found, beside fastdup where it is installed.

Four copies of every image are planted: half the size, re-encoded as JPEG of quality 60, cropped by 10 % on each side,
and mirrored. All are embedded with EfficientNet-Lite0, without its centre crop. Two images of one group count as right
if they come from the same image. For each tool the threshold with the best recall at a precision of at least
--precision is taken. Recall is also stated by kind of copy: the share of copies in the group of their original.

fastdup runs in --peers, the Python of an environment of its own, on the same files with its own features; its pairs are
grouped by connected components, as it does. FiftyOne's near-duplicates are the pairs above a threshold of whatever
embeddings it is given: on the same ones they are our `single` link.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from _common import finish, parser
from clusterer.jobs import duplicates
from extractor import pipeline as extractor
from extractor.models import catalogue
from PIL import Image, ImageOps
from shoal.cli.demo import fetch_images
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import DUPLICATES

KINDS = ("resized", "re-encoded", "cropped", "mirrored")
THRESHOLDS = tuple(round(0.70 + 0.02 * each, 2) for each in range(16))
PEER_SCRIPT = Path(__file__).with_name("_duplicate_peers.py")


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--images", type=Path, help="folder with the folders stamps and emoji; downloaded by default")
    options.add_argument("--precision", type=float, nargs="+", default=[0.6, 0.75], help="precisions to compare at")
    options.add_argument("--peers", type=Path, metavar="PYTHON", help="Python of the environment with fastdup")
    options.add_argument("--work", type=Path, help="keep images and store here; a temporary folder by default")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-duplicates-") as temporary:
        work = chosen.work or Path(temporary)
        originals = chosen.images or work / "images"
        for name in ("stamps", "emoji"):
            fetch_images(originals, name, lambda _: None)
        if not (work / "data" / "planted").is_dir():
            plant(originals, work / "data" / "planted")
        settings = Settings(data=work / "data", models=work / "models", store=work / "store", offline=True)
        embeddings = embed(settings)
        rows = Store(settings.store).embeddings(embeddings)
        paths = rows.metadata(["image_path"]).column("image_path").to_pylist()
        tools = {f"shoal, {link}": ours(settings, embeddings, link) for link in ("complete", "single")}
        if chosen.peers:
            tools |= peers(chosen.peers, work, paths)
    print(f"{len(paths)} images, {len(paths) // 5} of them originals")
    found = {}
    for least in chosen.precision:
        found[str(least)] = {name: best(curve, paths, least) for name, curve in tools.items()}
        print(f"precision at least {least}")
        for name, row in found[str(least)].items():
            print(f"  {name:28} {'never' if row is None else shown(row)}")
    finish({"benchmark": "duplicates", "images": len(paths), "at_precision": found}, as_json=chosen.json)


def shown(row: dict[str, Any]) -> str:
    """A point of a curve as a line."""
    kinds = "  ".join(f"{kind} {row['by_kind'][kind]:.3f}" for kind in KINDS)
    return f"at {row['at']:<5} precision {row['precision']:.3f}  recall {row['recall']:.3f}  {kinds}"


def plant(originals: Path, target: Path) -> None:
    """Write every image as a PNG on white, and four copies of it, under names that end in their kind."""
    for path in sorted(each for each in originals.rglob("*") if each.suffix == ".png"):
        name = "-".join(path.relative_to(originals).with_suffix("").parts)
        with Image.open(path) as opened:
            image = Image.new("RGB", opened.size, "white")
            rgba = opened.convert("RGBA")
            image.paste(rgba, mask=rgba.getchannel("A"))
        width, height = image.size
        target.mkdir(parents=True, exist_ok=True)
        image.save(target / f"{name}@original.png")
        image.resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BICUBIC).save(
            target / f"{name}@resized.png"
        )
        image.save(target / f"{name}@re-encoded.jpg", quality=60)
        border = (width // 10, height // 10)
        image.crop((*border, width - border[0], height - border[1])).save(target / f"{name}@cropped.png")
        ImageOps.mirror(image).save(target / f"{name}@mirrored.png")


def embed(settings: Settings) -> str:
    """Embed the planted images with the whole image in view."""
    spec = catalogue.resolve("tf_efficientnet_lite0", settings.models, settings=settings)
    weights = spec.weights.local_file(settings.models)
    if weights is None:
        raise SystemExit("The weights of tf_efficientnet_lite0 are not installed.")
    settings.models.mkdir(parents=True, exist_ok=True)
    (settings.models / weights.name).write_bytes(weights.read_bytes())
    model = {"architecture": spec.architecture, "weights": weights.name, "transform": {"crop_fraction": 1.0}}
    request = {"images": {"path": "planted", "labels": "none"}, "model": model, "engine": "eager", "thumbnails": True}
    made = extractor.run(JobContext.local(request, kind="extract:torch"), settings)
    return str(made["embeddings"])


def ours(settings: Settings, embeddings: str, link: str) -> dict[float, Any]:
    """By threshold: the groups as lists of rows, and the seconds."""
    store, curve = Store(settings.store), {}
    for threshold in THRESHOLDS:
        start = time.perf_counter()
        request = {"embeddings": embeddings, "threshold": threshold, "link": link}
        which = duplicates.run(JobContext.local(request, kind="duplicates"), settings)["duplicates"]
        seconds = time.perf_counter() - start
        table = store.analysis(DUPLICATES, which).table("members", ["group", "row"])
        groups: dict[int, list[int]] = {}
        for group, row in zip(table.column("group").to_pylist(), table.column("row").to_pylist(), strict=True):
            groups.setdefault(group, []).append(row)
        curve[threshold] = {"groups": list(groups.values()), "seconds": seconds}
    return curve


def peers(python: Path, work: Path, paths: list[str]) -> dict[str, dict[float, Any]]:
    """The curve of the peer, in the same form."""
    (work / "paths.json").write_text(json.dumps([Path(path).name for path in paths]))
    with (work / "peers.log").open("w") as log:
        subprocess.run([python, PEER_SCRIPT, work, work / "data" / "planted"], check=True, stdout=log, stderr=log)
    found: dict[str, dict[str, Any]] = json.loads((work / "peers.json").read_text())
    return {name: {float(at): row for at, row in curve.items()} for name, curve in found.items()}


def best(curve: dict[float, Any], paths: list[str], precision: float) -> dict[str, Any] | None:
    """The point of the best recall among those that are precise enough."""
    scored = [
        {"at": at, "seconds": round(row["seconds"], 3), **score(row["groups"], paths)} for at, row in curve.items()
    ]
    enough = [row for row in scored if row["precision"] >= precision]
    return max(enough, key=lambda row: (row["recall"], row["precision"])) if enough else None


def score(groups: Iterable[list[int]], paths: list[str]) -> dict[str, Any]:
    """Precision and recall of the pairs within groups, and the share of copies beside their original, by kind."""
    names = [path.rpartition("@")[0] for path in paths]
    kinds = [path.rpartition("@")[2].rpartition(".")[0] for path in paths]
    pairs = right = 0
    beside: Counter[str] = Counter()
    for group in groups:
        pairs += len(group) * (len(group) - 1) // 2
        sizes = Counter(names[row] for row in group)
        right += sum(size * (size - 1) // 2 for size in sizes.values())
        originals = {names[row] for row in group if kinds[row] == "original"}
        beside.update(kinds[row] for row in group if names[row] in originals)
    truth = sum(size * (size - 1) // 2 for size in Counter(names).values())
    count = kinds.count("original")
    return {
        "precision": round(right / pairs, 4) if pairs else 1.0,
        "recall": round(right / truth, 4),
        "by_kind": {kind: round(beside[kind] / count, 4) for kind in KINDS},
    }


if __name__ == "__main__":
    main()
