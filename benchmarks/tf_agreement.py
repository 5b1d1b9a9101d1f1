"""EfficientNet-Lite0 through TensorFlow Serving's gRPC and through PyTorch: are embeddings and clusters the same?

Two whole extractions of the demo's images (Tux Paint's stamps) from the same pixels: by the PyTorch backend with the
weights that come with Shoal, and by the stand-in of the tests, a server in a process of its own, with the SavedModel
ported from these weights. Then both sets are clustered with the same requests, once for each k and seed. Exits with 1
when an embedding differs by more than 1e-3 or any row's cluster does.

The images are fetched as `shoal demo` does, or taken from --images when given.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import finish, parser
from _serving import prepared, server
from clusterer import pipeline as clusterer
from extractor import pipeline as extractor
from numpy.typing import NDArray
from shoal.cli.demo import STAMPS, fetch_images
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store
from sklearn.metrics import adjusted_rand_score

START_S = 300.0
SERVED = "lite0_tf"
MODELS = {"torch": "tf_efficientnet_lite0", "tfserving": SERVED}
TOLERANCE = 1e-3


def main() -> int:
    """Run the comparison."""
    options = parser(__doc__)
    options.add_argument("--images", type=Path, help="folder of images; default: the demo's stamps, fetched")
    options.add_argument(
        "--clusters", type=int, nargs="+", default=[len(STAMPS), 20], help="numbers of clusters (%(default)s)"
    )
    options.add_argument("--seeds", type=int, default=5, help="how many seeds (%(default)s)")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="shoal-agreement-") as temporary:
        root = Path(temporary)
        images = chosen.images or fetch_images(root, "stamps", print)
        models = prepared(root, SERVED)
        with server(models) as url:
            settings = Settings(
                data=images,
                models=models,
                store=root / "store",
                tf_serving_url=url,
                tf_serving_gone_s=START_S,
                offline=True,
                device="cpu",
            )
            sets = {backend: extracted(backend, settings) for backend in MODELS}
        embeddings = compare_embeddings(sets, settings)
        clusterings = [
            compare_clusters(sets, settings, k, seed) for k in chosen.clusters for seed in range(chosen.seeds)
        ]
    return report(embeddings, clusterings, as_json=chosen.json)


def extracted(backend: str, settings: Settings) -> str:
    """The id of all images' embeddings by one backend."""
    request = {"images": {"path": "."}, "model": MODELS[backend], "thumbnails": False}
    result = extractor.run(JobContext.local(request, kind=f"extract:{backend}"), settings)
    return str(result["embeddings"])


def compare_embeddings(sets: dict[str, str], settings: Settings) -> dict[str, Any]:
    """How far the rows of the two sets are apart; both have to be of the same images in the same order."""
    opened = [Store(settings.store).embeddings(each) for each in sets.values()]
    ids = [each.metadata().column("image_id").to_pylist() for each in opened]
    if ids[0] != ids[1]:
        raise SystemExit("The two sets are not of the same images.")
    torch, served = (np.concatenate([batch for _, batch in each.iter_batches()]) for each in opened)
    return {
        "rows": len(torch),
        "dim": torch.shape[1],
        "max_abs_difference": float(np.abs(torch - served).max()),
        "largest_value": float(np.abs(torch).max()),
    }


def compare_clusters(sets: dict[str, str], settings: Settings, k: int, seed: int) -> dict[str, Any]:
    """The same request for both sets: on how many rows the clusters differ, by their numbers."""
    torch, served = (clustered(each, settings, k, seed) for each in sets.values())
    return {
        "k": k,
        "seed": seed,
        "rows_that_differ": int((torch != served).sum()),
        "ari": float(adjusted_rand_score(torch, served)),
    }


def clustered(embeddings: str, settings: Settings, k: int, seed: int) -> NDArray[np.int32]:
    """Each row's cluster."""
    request = {"embeddings": embeddings, "clusters": k, "seed": seed}
    result = clusterer.run(JobContext.local(request, kind="cluster"), settings)
    table = Store(settings.store).clustering(result["clustering"]).assignments(columns=["cluster"])
    return np.asarray(table.column("cluster"))


def report(embeddings: dict[str, Any], clusterings: list[dict[str, Any]], *, as_json: bool) -> int:
    """Print what differs; the exit status."""
    print(
        f"{embeddings['rows']} images, {embeddings['dim']}-d: largest difference "
        f"{embeddings['max_abs_difference']:.2g} where values reach {embeddings['largest_value']:.3g}"
    )
    for row in clusterings:
        print(f"k = {row['k']:3}, seed {row['seed']}: ARI {row['ari']:.4f}, {row['rows_that_differ']} rows differ")
    same = embeddings["max_abs_difference"] <= TOLERANCE and not any(row["rows_that_differ"] for row in clusterings)
    result = {"benchmark": "tf_agreement", **embeddings, "clusterings": clusterings, "agree": same}
    finish(result, as_json=as_json)
    return 0 if same else 1


if __name__ == "__main__":
    raise SystemExit(main())
