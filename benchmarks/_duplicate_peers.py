"""fastdup on a folder of images; runs in an environment of its own and writes peers.json into a folder."""

import json
import sys
import time
from pathlib import Path

import fastdup
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

THRESHOLDS = tuple(round(0.70 + 0.02 * each, 2) for each in range(16))


def main() -> None:
    """The connected components of fastdup's similar pairs, by threshold."""
    work, images = Path(sys.argv[1]), Path(sys.argv[2])
    paths: list[str] = json.loads((work / "paths.json").read_text())
    place = {path: row for row, path in enumerate(paths)}
    start = time.perf_counter()
    tool = fastdup.create(work_dir=str(work / "fastdup"), input_dir=str(images))
    tool.run(threshold=THRESHOLDS[0], nearest_neighbors_k=20, overwrite=True, print_summary=False, verbose=False)
    pairs = tool.similarity()
    seconds = time.perf_counter() - start
    ends = [np.array([place[Path(path).name] for path in pairs[name]]) for name in ("filename_from", "filename_to")]
    similarity = pairs["distance"].to_numpy()
    curve = {}
    for threshold in THRESHOLDS:
        near = similarity >= threshold
        graph = coo_array((np.ones(near.sum()), (ends[0][near], ends[1][near])), (len(paths), len(paths)))
        count, of = connected_components(graph, directed=False)
        order = np.argsort(of, kind="stable")
        groups = np.split(order, np.cumsum(np.bincount(of, minlength=count))[:-1])
        curve[threshold] = {"groups": [each.tolist() for each in groups if len(each) > 1], "seconds": seconds}
    (work / "peers.json").write_text(json.dumps({"fastdup, its own features": curve}))


if __name__ == "__main__":
    main()
