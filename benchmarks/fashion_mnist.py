"""Fashion-MNIST through the whole of Shoal: the first 2,000 test images, EfficientNet-Lite0, k-means with k = 10.

Expected of the whole image, L2-normalised: accuracy 0.74 ± 0.02, NMI 0.67 ± 0.02. Beside it stand the network's own
centre crop, which cuts into the garments, and raw pixels. Each seed is the best of as many restarts as the clusterer
takes by itself. Tux Paint's stamps, the 219 photographs in seven classes of `shoal demo`, go the same way.

With `--engines`, the whole images are embedded by each of them too: `off` is how far accuracy and NMI are from eager
float32's, `within_std` whether neither is lower by more than the standard deviation of its seeds.

The garments are Debian's package `dataset-fashion-mnist` (MIT): taken from --dataset when given, else downloaded with
`apt-get download` and unpacked with `dpkg-deb`, without root.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _common import finish, parser, spread
from clusterer import pipeline as clusterer
from extractor import pipeline as extractor
from extractor.models import catalogue
from numpy.typing import NDArray
from PIL import Image
from shoal.cli.demo import DEBIAN_TOOLS, STAMPS, fetch_images, unpack_debian
from shoal.errors import ShoalError
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store

PACKAGE = "dataset-fashion-mnist"
INSTALLED = Path("/usr/share/datasets/fashion-mnist")
WHOLE = "lite0, whole image"
CLASSES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot")


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--dataset", type=Path, help="folder with t10k-images-idx3-ubyte.gz and its labels")
    options.add_argument("--images", type=int, default=2000, help="how many test images (%(default)s)")
    options.add_argument("--seeds", type=int, default=5, help="how many seeds (%(default)s)")
    options.add_argument(
        "--engines",
        nargs="+",
        default=["eager"],
        metavar="ENGINE",
        help="engines that embed the whole image, such as bf16 openvino openvino-int8, beside eager",
    )
    options.add_argument("--no-stamps", action="store_true", help="leave Tux Paint's stamps out")
    options.add_argument("--work", type=Path, help="keep images and store here; a temporary folder by default")
    options.add_argument(
        "--write-images",
        type=Path,
        metavar="FOLDER",
        help="only write the first 20,000 train and all test images as FOLDER/train and FOLDER/test, a folder a class",
    )
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-fashion-") as temporary:
        work = chosen.work or Path(temporary)
        if chosen.write_images:
            dataset = chosen.dataset or fetch(work / "package")
            write_images(dataset, chosen.write_images / "train", 20_000, "train")
            write_images(dataset, chosen.write_images / "test", 10_000)
            return
        write_images(chosen.dataset or fetch(work / "package"), work / "data" / "fashion", chosen.images)
        settings = Settings(data=work / "data", models=work / "models", store=work / "store", offline=True)
        compared = models_of(settings)
        engines = [each for each in chosen.engines if each != "eager"]
        run = Run("fashion", len(CLASSES), settings, chosen.seeds)
        models = {name: run.measure(model) for name, model in compared.items()}
        models |= run.by_engines(compared[WHOLE], models[WHOLE], engines)
        stamps = {} if chosen.no_stamps else measure_stamps(settings, compared[WHOLE], engines, chosen.seeds)
    show(f"Fashion-MNIST, first {chosen.images} test images, L2-normalised, k = 10, {chosen.seeds} seeds", models)
    if stamps:
        show(f"Tux Paint's stamps, L2-normalised, k = {len(STAMPS)}, {chosen.seeds} seeds", stamps)
    result = {"benchmark": "fashion_mnist", "images": chosen.images, "k": 10, "models": models, "stamps": stamps}
    finish(result, as_json=chosen.json)


def show(title: str, models: dict[str, Any]) -> None:
    """A table for people."""
    print(title)
    for model, row in models.items():
        figures = "  ".join(
            f"{name} {row[name]['mean']:.3f} ± {row[name]['std']:.3f}" for name in ("acc", "nmi", "ami", "ari")
        )
        within = {True: ", within", False: ", lower"}.get(row.get("within_std"), "")
        print(f"{model:32} {figures}  {row['extract_s']:.0f} s + {row['cluster_s']:.0f} s{within}")


def measure_stamps(settings: Settings, model: Any, engines: list[str], seeds: int) -> dict[str, Any]:
    """The same for Tux Paint's stamps; nothing where they cannot be downloaded."""
    try:
        folder = fetch_images(settings.data, "stamps", print)
    except ShoalError as error:
        print(f"Tux Paint is left out: {error.detail}")
        return {}
    run = Run(folder.name, len(STAMPS), settings, seeds)
    eager = run.measure(model)
    return {WHOLE: eager, **run.by_engines(model, eager, engines)}


def models_of(settings: Settings) -> dict[str, Any]:
    """What is compared, as requests name it."""
    spec = catalogue.resolve("tf_efficientnet_lite0", settings.models, settings=settings)
    weights = spec.weights.local_file(settings.models)
    if weights is None:
        raise SystemExit("The weights of tf_efficientnet_lite0 are not installed.")
    settings.models.mkdir(parents=True, exist_ok=True)
    if weights.parent != settings.models:  # they are there where a run is repeated
        shutil.copyfile(weights, settings.models / weights.name)
    # The garments fill their 28 pixels, and the network's own centre crop cuts an eighth of them off.
    whole = {"architecture": spec.architecture, "weights": weights.name, "transform": {"crop_fraction": 1.0}}
    return {WHOLE: whole, "lite0, its own crop": spec.name, "raw pixels": "raw_pixels"}


def beside(row: dict[str, Any], eager: dict[str, Any]) -> dict[str, Any]:
    """How far an engine's means are from eager's, and whether none is lower by more than its seeds' deviation."""
    off = {name: round(row[name]["mean"] - eager[name]["mean"], 4) for name in ("acc", "nmi")}
    return {"off": off, "within_std": all(off[name] >= -eager[name]["std"] for name in off)}


@dataclass(frozen=True)
class Run:
    """A set of images to embed and cluster.

    Attributes
    ----------
    path
        Of the images, below the data root; a folder a class.
    """

    path: str
    classes: int
    settings: Settings
    seeds: int

    def by_engines(self, model: Any, eager: dict[str, Any], engines: list[str]) -> dict[str, Any]:
        """The figures of each engine, and how far they are from ``eager``."""
        rows = {f"{WHOLE}, {engine}": self.measure(model, engine) for engine in engines}
        return {name: {**row, **beside(row, eager)} for name, row in rows.items()}

    def measure(self, model: Any, engine: str = "eager") -> dict[str, Any]:
        """Embed, cluster and score with one model."""
        start = time.perf_counter()
        request = {"images": {"path": self.path}, "model": model, "engine": engine, "thumbnails": False, "reuse": None}
        extracted = extractor.run(JobContext.local(request, kind="extract:torch"), self.settings)
        middle = time.perf_counter()
        request = {
            "embeddings": extracted["embeddings"],
            "clusters": self.classes,
            "seeds": list(range(self.seeds)),
        }
        clustered = clusterer.run(JobContext.local(request, kind="cluster"), self.settings)
        end = time.perf_counter()
        clustering = Store(self.settings.store).clustering(clustered["clustering"])
        metrics = clustering.metrics()
        rows = list(metrics["scored"][extracted["embeddings"]]["seeds"].values())
        return {
            "rows": extracted["rows"],
            "numerics": (extracted["engine"] or {}).get("numerics"),
            "dim": extracted["dim"],
            "restarts": clustering.spec["restarts"],
            "acc": spread([row["accuracy"]["hungarian"]["scored"] for row in rows]),
            "nmi": spread([row["nmi_arithmetic"] for row in rows]),
            "ami": spread([row["ami"] for row in rows]),
            "ari": spread([row["ari"] for row in rows]),
            "extract_s": round(middle - start, 1),
            "cluster_s": round(end - middle, 1),
        }


def fetch(target: Path) -> Path:
    """The folder of the data set: the installed package's, else a fresh download's."""
    if INSTALLED.is_dir():
        return INSTALLED
    if any(shutil.which(tool) is None for tool in DEBIAN_TOOLS):
        raise SystemExit(f"{' and '.join(DEBIAN_TOOLS)} are not here: give --dataset, the files of Debian's {PACKAGE}.")
    target.mkdir(parents=True, exist_ok=True)
    return unpack_debian(PACKAGE, target.resolve(), "files") / INSTALLED.relative_to("/")


def read_idx(path: Path, header: int) -> NDArray[np.uint8]:
    """The bytes of a gzipped IDX file after its header of ``header`` bytes."""
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=header)


def write_images(dataset: Path, folder: Path, count: int, split: str = "t10k") -> None:
    """The first ``count`` images of a split as PNG files in one folder per class."""
    pixels = read_idx(dataset / f"{split}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)[:count]
    labels = read_idx(dataset / f"{split}-labels-idx1-ubyte.gz", 8)[:count]
    for name in CLASSES:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / CLASSES[label] / f"{index:05d}.png"
        if not path.exists():
            half = path.with_suffix(".half")  # an interrupted run leaves no image that is cut short
            Image.fromarray(image).save(half, "PNG")
            half.replace(path)


if __name__ == "__main__":
    main()
