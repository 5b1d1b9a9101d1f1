"""Planted label errors in Fashion-MNIST: average precision of `shoal quality`, beside cleanlab on the same features.

5 % of the labels of the test images are replaced by another class at random. Both get the same embeddings and labels.
cleanlab runs in --peers, the Python of an environment of its own with `cleanlab` in it, on out-of-sample probabilities
of logistic regression and of nearest neighbours (5 folds); its `find_label_issues` lists rows, and its scores rank all.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import finish, parser
from clusterer.jobs import quality
from extractor import pipeline as extractor
from fashion_mnist import CLASSES, WHOLE, fetch, models_of, write_images
from shoal.importer import import_embeddings
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.analyses import QUALITY
from sklearn.metrics import average_precision_score

PEER_SCRIPT = Path(__file__).with_name("_label_peers.py")


def main() -> None:
    """Run the benchmark."""
    options = parser(__doc__)
    options.add_argument("--dataset", type=Path, help="folder with t10k-images-idx3-ubyte.gz and its labels")
    options.add_argument("--images", type=int, default=10_000, help="how many test images (%(default)s)")
    options.add_argument("--features", choices=("raw", "lite0"), default="raw", help="embeddings (%(default)s)")
    options.add_argument("--share", type=float, default=0.05, help="share of wrong labels (%(default)s)")
    options.add_argument("--peers", type=Path, metavar="PYTHON", help="Python of the environment with cleanlab")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-labels-") as temporary:
        work = Path(temporary)
        write_images(chosen.dataset or fetch(work / "package"), work / "data" / "fashion", chosen.images)
        settings = Settings(data=work / "data", models=work / "models", store=work / "store", offline=True)
        model = models_of(settings)[WHOLE] if chosen.features == "lite0" else "raw_pixels"
        request = {"images": {"path": "fashion"}, "model": model, "engine": "eager", "thumbnails": False}
        made = extractor.run(JobContext.local(request, kind="extract:torch"), settings)
        rows = Store(settings.store).embeddings(made["embeddings"])
        features = np.concatenate([batch for _, batch in rows.iter_batches()])
        labels, wrong = spoil(rows.labels() or [], chosen.share)
        found = {"shoal": ours(settings, work, features, labels, wrong)}
        if chosen.peers:
            np.savez(work / "labels.npz", features=features, labels=labels, wrong=wrong)
            subprocess.run([chosen.peers, PEER_SCRIPT, work], check=True)
            found |= json.loads((work / "peers.json").read_text())
    print(f"Fashion-MNIST, {len(labels)} images, {chosen.features} features, {chosen.share:.0%} of the labels wrong")
    for name, row in found.items():
        print(f"{name:50} AP {row['average_precision']:.4f}  {row['issues']} listed, recall {row['recall']:.3f}")
    result = {"benchmark": "label_errors", "images": len(labels), "features": chosen.features, "share": chosen.share}
    finish({**result, "tools": found}, as_json=chosen.json)


def spoil(names: list[str | None], share: float) -> tuple[Any, Any]:
    """The classes with a share of them replaced, and which."""
    classes = np.array([CLASSES.index(str(name)) for name in names])
    rng = np.random.default_rng(0)
    wrong = np.zeros(len(classes), bool)
    wrong[rng.choice(len(classes), round(share * len(classes)), replace=False)] = True
    count = int(wrong.sum())
    classes[wrong] = (classes[wrong] + rng.integers(1, len(CLASSES), count)) % len(CLASSES)
    return classes, wrong


def ours(settings: Settings, work: Path, features: Any, labels: Any, wrong: Any) -> dict[str, Any]:
    """The quality job on the features with the spoiled labels."""
    np.save(work / "features.npy", features)
    np.save(work / "spoiled.npy", np.array([CLASSES[each] for each in labels]))
    store = Store(settings.store)
    spoiled = import_embeddings(store, work / "features.npy", name="spoiled", labels=work / "spoiled.npy", split=None)
    start = time.perf_counter()
    which = quality.run(JobContext.local({"embeddings": spoiled}, kind="quality"), settings)["quality"]
    seconds = time.perf_counter() - start
    table = store.analysis(QUALITY, which).table("labels")
    row, score = table.column("row").to_numpy(), table.column("score").to_numpy()
    listed = row[table.column("error").to_numpy()]
    ranked = np.zeros(len(labels))
    ranked[row] = -score
    issues = np.where(np.isin(np.arange(len(labels)), listed), ranked, -2.0)
    return {
        "average_precision": round(float(average_precision_score(wrong, ranked)), 4),
        "average_precision_of_issues": round(float(average_precision_score(wrong, issues)), 4),
        "issues": len(listed),
        "precision": round(float(wrong[listed].mean()), 4),
        "recall": round(float(wrong[listed].sum() / wrong.sum()), 4),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
