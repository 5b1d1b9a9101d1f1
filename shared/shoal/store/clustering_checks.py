"""Whether the documents of a clustering are what its readers need, and the errors for those that are not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shoal.errors import ClusteringNotFound, ShoalError, StoreCorrupt
from shoal.store.layout import ClusteringLayout
from shoal.store.manifest import FileRecord, FilesRecord, seal_of


def read_records(layout: ClusteringLayout) -> dict[str, FileRecord]:
    """The records of files.json by path.

    Raises
    ------
    ValueError
        It is no such document, or does not fit its seal.
    """
    content = layout.files.read_bytes()
    found = FilesRecord.model_validate_json(content)
    if seal_of(json.loads(content)) != found.seal:
        raise ValueError("it does not fit its seal")
    return {record.path: record for record in found.files}


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` unless spec.json has what every reader needs."""
    lists = all(isinstance(spec.get(name), list) and spec[name] for name in ("scored", "seeds"))
    numbers = all(isinstance(spec.get(name), int) for name in ("k", "n", "dim", "best_seed"))
    if not lists or not numbers or not isinstance(spec.get("request"), dict):
        raise ValueError("it lacks fields of a spec.json")


def check_metrics(metrics: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
    """Raise a ``ValueError`` unless metrics.json has the figures of every scored set."""
    scored = metrics.get("scored")
    for name in spec["scored"]:
        entry = scored.get(name) if isinstance(scored, dict) else None
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), dict) for key in ("seeds", "mean", "std")):
            raise ValueError(f"it lacks the figures of {name}")


def corrupt(layout: ClusteringLayout, path: Path, problem: str, clustering_id: str) -> ShoalError:
    """The error for a file of a clustering that is not as it should be, or for a clustering that is deleted."""
    if not layout.folder.is_dir():
        return not_found(clustering_id)
    name = f"clusterings/{clustering_id}/{path.relative_to(layout.folder).as_posix()}"
    return StoreCorrupt(
        f"{name} {problem}. `shoal verify {clustering_id}` lists all damage; cluster again, and delete this one with "
        f"`DELETE /clusterings/{clustering_id}`.",
        file=name,
        clustering=clustering_id,
    )


def not_found(clustering_id: str) -> ClusteringNotFound:
    """The error for an id that names no clustering."""
    return ClusteringNotFound(
        f"There is no clustering {clustering_id!r}: `GET /clusterings` lists the ids.", clustering=clustering_id
    )
