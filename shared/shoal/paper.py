"""The published figures that sweeps are drawn beside: arXiv 2008.10312 on ImageNet's validation set."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One published figure, in percent.

    Attributes
    ----------
    x
        Of the ablation: components, or clusters as a multiple of the classes; 0 for a model.
    accuracy, ari
        Of k-means.
    name
        Of a model.
    probe
        Accuracy of a linear classifier on the same embeddings.
    """

    x: float
    accuracy: float
    ari: float
    name: str = ""
    probe: float | None = None


@dataclass(frozen=True)
class Difference:
    """One difference from the paper's protocol, and why."""

    what: str
    paper: str
    ours: str
    why: str


def pca_ablation() -> list[Figure]:
    """Accuracy and ARI by number of principal components: SimCLRv2 ResNet-152 + SK, k = 1000."""
    return _series("pca_ablation")


def over_clustering() -> list[Figure]:
    """Accuracy and ARI by clusters per class, of the same model."""
    return _series("over_clustering")


def models() -> list[Figure]:
    """Accuracy, ARI and linear accuracy of each model."""
    return [Figure(0.0, each["accuracy"], each["ari"], each["name"], each["probe"]) for each in _document()["models"]]


def differences() -> list[Difference]:
    """Differences from the paper's protocol."""
    return [Difference(**each) for each in _document()["differences"]]


def _series(name: str) -> list[Figure]:
    table = _document()[name]
    rows = zip(table["x"], table["accuracy"], table["ari"], strict=True)
    return [Figure(float(x), accuracy, ari) for x, accuracy, ari in rows]


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads(files("shoal").joinpath("paper.toml").read_text(encoding="utf-8"))
