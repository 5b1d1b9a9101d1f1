"""Clusterings that are fitted on Fashion-MNIST's train images and score its test images, by services over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc
from _labelled_sets import TEST_IMAGES, embed, images_of
from imagenet import services
from shoal import Client
from shoal.settings import Settings
from shoal.store import Store

IMAGES: Final = 200
"""Test images that are sent as images."""


def held_out(
    settings: Settings, work: Path, train_images: int, requests: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The accuracy on train and on test images of each request, and how they agree with what `/assign` says.

    Accuracy is by the classes that the train images give to clusters, one to one. ``assigned`` is the share of test
    images whose vector, and ``images`` that of the first of them whose file, gets the cluster that it has in the scored
    set; ``train`` is that of the train images' vectors.
    """
    folder = images_of(settings, work, "fashion", TEST_IMAGES + train_images)
    train, test = (embed(settings, f"{folder}/{split}", engine="openvino") for split in ("train", "test"))
    opened = {name: Store(settings.store).embeddings(name) for name in (train, test)}
    vectors = {name: np.concatenate([block for _, block in each.iter_batches()]) for name, each in opened.items()}
    paths = opened[test].metadata(["image_path"]).column("image_path").to_pylist()
    files = [settings.data / folder / "test" / path for path in paths[:: len(paths) // IMAGES]]
    found = {}
    with services(settings.store, work, settings.models) as client:
        for name, request in requests.items():
            found[name] = _one(client, train, test, vectors, files, request)
            print(f"  {name:12} {found[name]}", flush=True)
    return found


def _one(
    client: Client, train: str, test: str, vectors: dict[str, Any], files: list[Path], request: dict[str, Any]
) -> dict[str, Any]:
    sets = {"train": train, "score": [train, test]}
    job = client.wait(client.cluster(sets, clusters=10, seed=0, **request))
    if job.result is None:
        raise SystemExit(f"the job failed: {job.error}")
    clustering = job.result["clustering"]
    scored = client.metrics(clustering)["scored"]
    accuracy = [scored[name]["mean"]["accuracy"]["hungarian"]["train"] for name in (train, test)]
    table = client.assignments_table(clustering).to_arrow()
    clusters = {name: table.filter(pc.equal(table["embeddings"], name))["cluster"].to_numpy() for name in (train, test)}
    assigned = {name: client.assign(clustering, vectors=vectors[name]).cluster for name in (train, test)}
    sent = client.assign(clustering, images=files).cluster
    return {
        "train_accuracy": round(accuracy[0], 4),
        "test_accuracy": round(accuracy[1], 4),
        "train": float(np.mean(assigned[train] == clusters[train])),
        "assigned": float(np.mean(assigned[test] == clusters[test])),
        "images": float(np.mean(sent == clusters[test][:: len(clusters[test]) // IMAGES])),
    }
