"""Sets whose classes are known, as embeddings in a store: images through EfficientNet-Lite0, and planted groups."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _planted import SHAPES, planted
from extractor import pipeline as extractor
from fashion_mnist import WHOLE, fetch, models_of, write_images
from numpy.typing import NDArray
from shoal.cli.demo import fetch_images, unpack_debian
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id

SETS = ("stamps", "emoji", "clipart", "fashion", "planted")
CLIPART_PACKAGE, CLIPART_ROOT = "openclipart-png", "usr/share/openclipart/png"
CLIPART = {
    "birds": "animals/birds",
    "bugs": "animals/bugs",
    "mammals": "animals/mammals",
    "beverages": "food/beverages",
    "desserts": "food/desserts",
    "fruit": "food/fruit",
    "clothing": "people/clothing",
    "smilies": "people/smilies",
    "music": "recreation/music",
    "cards": "recreation/games/cards",
    "road-signs": "transportation/roadsigns",
    "vehicles": "transportation/vehicles",
}
TEST_IMAGES = 10_000
"""Of Fashion-MNIST; the others are its train images."""


def make_sets(settings: Settings, work: Path, names: list[str], fashion: list[int]) -> dict[str, str]:
    """Ids of embeddings by name.

    Parameters
    ----------
    names
        Some of `SETS`.
    fashion
        How many images of Fashion-MNIST, the test images first; a set for each number.
    """
    found: dict[str, str] = {}
    images = [name for name in names if name != "planted"]
    for name in images:
        for count in fashion if name == "fashion" else (0,):
            folder = images_of(settings, work, name, count)
            if name == "fashion":
                found[f"Fashion-MNIST, {count:,}"] = embed(settings, folder, {"folder_level": 1}, "openvino")
            else:
                found[name] = embed(settings, folder)
    for shape in SHAPES if "planted" in names else ():
        rows, of = planted(shape)
        found[f"planted, {shape}"] = store_rows(Store(settings.store), shape, rows, of)
    return found


def images_of(settings: Settings, work: Path, name: str, count: int = 0) -> str:
    """The folder of a set below the data root."""
    settings.data.mkdir(parents=True, exist_ok=True)
    if name == "clipart":
        return fetch_clipart(settings.data / name).name
    if name != "fashion":
        return fetch_images(settings.data, name, print).name
    package, folder = fetch(work / "package"), settings.data / f"fashion-{count}"
    write_images(package, folder / "test", min(count, TEST_IMAGES))
    if count > TEST_IMAGES:
        write_images(package, folder / "train", count - TEST_IMAGES, "train")
    return folder.name


def fetch_clipart(folder: Path) -> Path:
    """Clip art of Debian's package, a folder for each of `CLIPART`, without links to files of others."""
    if not folder.is_dir():
        print(f"Downloading {CLIPART_PACKAGE} …")
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            try:
                root = unpack_debian(CLIPART_PACKAGE, Path(temporary).resolve(), "files") / CLIPART_ROOT
            except (OSError, subprocess.CalledProcessError) as error:
                raise SystemExit(f"{CLIPART_PACKAGE} cannot be downloaded; leave clipart out of --sets.") from error
            laid_out = Path(temporary) / "laid-out"
            for name, place in CLIPART.items():
                (laid_out / name).mkdir(parents=True)
                for image in sorted((root / place).rglob("*.png")):
                    if not image.is_symlink():
                        shutil.copyfile(image, laid_out / name / "-".join(image.relative_to(root / place).parts))
            laid_out.rename(folder)
    return folder


def embed(settings: Settings, path: str, labels: Any = "folder", engine: str = "eager") -> str:
    """Embed a folder of images, or find that it is embedded."""
    model = models_of(settings)[WHOLE]
    request = {"images": {"path": path, "labels": labels}, "model": model, "engine": engine, "thumbnails": False}
    return str(extractor.run(JobContext.local(request, kind="extract:torch"), settings)["embeddings"])


def store_rows(store: Store, name: str, rows: NDArray[np.float32], of: NDArray[np.int64]) -> str:
    """Put rows with labels into a store."""
    name = f"{name}-{hashlib.sha256(rows.tobytes()).hexdigest()[:12]}"  # other rows are another set
    paths, labels = [f"{name}/{row:07d}" for row in range(len(rows))], [f"{each:04d}" for each in of]
    ids = [image_id(path) for path in paths]
    listing = pa.table({"image_id": ids, "image_path": paths, "label": labels})
    record = ModelRecord(name="planted", backend="import", architecture="planted", embedding="rows")
    plan = Plan(
        name=name,
        source=Source.of(listing, kind="images", path=name),
        model=record,
        dim=rows.shape[1],
        dtype="float32",
        shard_rows=65_536,
        thumbnails=False,
        transform={},
    )
    made = store.create_embeddings(plan, listing)
    for shard in range(plan.shards) if not made.complete else ():
        start, stop = plan.shard_range(shard)
        with store.shard_writer(made.id, shard, attempt=1, owner="benchmark") as writer:
            metadata = [RowMetadata(ids[row], paths[row], labels[row]) for row in range(start, stop)]
            writer.append(rows[start:stop], metadata)
            writer.commit()
    if not made.complete:
        store.finish_embeddings(made.id)
    return str(made.id)


def rows_of(settings: Settings, embeddings: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The rows of a set, of length 1, and their classes."""
    opened = Store(settings.store).embeddings(embeddings)
    x = np.concatenate([block for _, block in opened.iter_batches()]).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = opened.metadata(["label"]).column("label").to_pylist()
    return x, np.unique(np.array(labels), return_inverse=True)[1]
