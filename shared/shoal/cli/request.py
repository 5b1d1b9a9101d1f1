"""What `shoal run` sends to the services: the folder, its labels, the model, the clustering; and results to reuse."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shoal import __version__
from shoal.cli.graph import counts_itself
from shoal.cli.jobs import DEFAULT_MODEL, parse_labels
from shoal.errors import InvalidRequest, NotFound, PathNotFound, ShoalError, StoreError
from shoal.schemas import ClusterRequest, Job
from shoal.store import Store

Json = dict[str, Any]
FEWEST_IMAGES = 2
FEWEST_SEARCHED = 100
"""Of fewer images, figures without labels say too little to choose by."""
MAX_FAILED_FRACTION = 0.5
"""A folder of a user's own often holds files that are not images; the summary names them."""
SOURCE_SUFFIXES = frozenset({".txt", ".lst", ".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".pq", ".tar", ".zip"})
"""Files that are sources of images, rather than images."""
OPEN = ("clusters", "over", "reduce")
"""Fields of a request that a user of `shoal run` may leave open."""
NO_EFFECT = {"execution", "memory_limit"}
"""Fields of a request that do not change its result."""


@dataclass(frozen=True)
class Source:
    """A folder or a file of images and its labels, as a request names them.

    Attributes
    ----------
    folder
        Where it is.
    root
        The data root: what holds the folder, and the label file where there is one.
    labels
        As the API takes them.
    chosen
        Other fields of the request's ``images``: ``format``, ``include``, ``exclude``, ``limit``.
    """

    folder: Path
    root: Path
    labels: str | dict[str, Any] = "folder"
    chosen: Json = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The folder below the data root."""
        return self.folder.relative_to(self.root).as_posix()

    @classmethod
    def of(cls, folder: Path, labels: str = "folder", **chosen: object) -> Source:
        """The source that ``folder``, ``--labels`` and the flags of ``chosen`` name.

        Raises
        ------
        PathNotFound
            There is no such folder or label file.
        InvalidRequest
            The folder cannot be named in a request.
        """
        where = _files_of_pattern(folder) or _existing(folder)
        parsed = _label_file(labels, where)
        if isinstance(parsed, str) or "file" not in parsed:
            return cls(where, where.parent, parsed, chosen)
        file = Path(parsed["file"])
        root = Path(os.path.commonpath([where.parent, file.parent]))
        return cls(where, root, {**parsed, "file": file.relative_to(root).as_posix()}, chosen)


def _files_of_pattern(path: Path) -> Path | None:
    """A path with braces in the name of its file, `shards/{00..99}.tar`; None for any other path."""
    where = path.expanduser()
    if "{" not in where.name or where.exists():
        return None
    return _existing(where.parent) / where.name


def _existing(folder: Path) -> Path:
    """The folder or file itself, by its true name.

    Raises
    ------
    PathNotFound, InvalidRequest
        It cannot be a folder of images.
    """
    where = folder.expanduser()
    if where.is_file() and where.suffix.lower() not in SOURCE_SUFFIXES:
        raise PathNotFound(f"{where} is a file: give the folder that holds the images, {where.parent.resolve()}.")
    if not (where.is_dir() or where.is_file()):
        raise PathNotFound(f"The folder {where.absolute()} does not exist.")
    where = where.resolve()
    if not where.name:
        raise InvalidRequest(f"{where} is the whole machine: give the folder that holds the images.")
    try:
        str(where).encode()
    except UnicodeEncodeError:
        shown = os.fsencode(where).decode(errors="backslashreplace")
        raise InvalidRequest(f"The name of the folder {shown} is not UTF-8: rename it.") from None
    if not os.access(where, os.R_OK | os.X_OK if where.is_dir() else os.R_OK):
        what = "folder" if where.is_dir() else "file"
        raise PathNotFound(f"This user may not read the {what} {where}: change its permissions.")
    return where


def _label_file(text: str, folder: Path) -> str | dict[str, Any]:
    """`parse_labels`, with the label file's path absolute: of the working directory, or in or beside the folder."""
    whole = Path(text).expanduser()
    parsed = {"file": str(whole)} if whole.is_file() else parse_labels(text)
    if isinstance(parsed, str) or "file" not in parsed:
        return parsed
    for base in dict.fromkeys((Path(), folder, folder.parent)):
        file = base / Path(parsed["file"]).expanduser()
        if file.is_file():
            return {**parsed, "file": str(file.resolve())}
    raise PathNotFound(
        f"The label file {parsed['file']} does not exist in {Path.cwd()}, {folder} or {folder.parent}. "
        "`--labels` takes `folder`, `none`, or a CSV or Parquet file.",
        field="images.labels",
    )


@dataclass(frozen=True)
class RunRequest:
    """What to extract and how to cluster it."""

    source: Source
    model: str | Json = DEFAULT_MODEL
    clusters: int | str | None = None
    over: float | None = None
    options: Json = field(default_factory=dict)
    """Other fields of the clustering's request; `reduce` may be ``none``."""
    again: bool = False
    max_failed_fraction: float = MAX_FAILED_FRACTION
    engine: str | None = None

    @property
    def open(self) -> bool:
        """Whether the user left the number of clusters, and so the reduction, to Shoal."""
        return self.clusters is None and self.over is None and not counts_itself(self.options.get("method"))

    def body(self, embeddings: str, chosen: Json) -> Json:
        """The clustering's request; what was chosen stands where the user left it open."""
        asked = {"clusters": self.clusters, "over": self.over, **self.options}
        given = {name: value for name, value in asked.items() if value is not None}
        chosen = {name: chosen[name] for name in OPEN if name in chosen} if self.open else {}
        if self.options.get("method", "kmeans") != "kmeans":
            chosen.pop("reduce", None)  # It compares options of k-means.
        sent = {"embeddings": embeddings, **chosen, **given}
        return {name: value for name, value in sent.items() if not (name == "reduce" and value == "none")}

    def same_as(self, job: Job, store: Store) -> bool:
        """Whether an unfinished job of an earlier command does the same."""
        embeddings = job.request.get("embeddings")
        if job.kind != "cluster" or not isinstance(embeddings, str) or job.cancel_requested:
            return False
        try:
            if store.embeddings(embeddings).plan.source.path != self.source.path:
                return False
        except (NotFound, StoreError):  # A damaged set: the extraction mends it first.
            return False
        sent = {name: job.request[name] for name in OPEN if job.request.get(name) is not None}
        own = self.body(embeddings, sent)
        return canonical(own) is not None and canonical(own) == canonical(job.request)


def choose(facts: Json) -> Json:
    """`clusters` or `over`, and `reduce`, for a user who gave no number of groups.

    As many groups as classes where most images have one. Otherwise the number is searched, or of few images the square
    root of half of them.
    """
    few = int(facts["rows"]) < FEWEST_SEARCHED
    reduce = {} if few else {"reduce": "auto"}
    if (facts.get("classes") or 0) >= FEWEST_IMAGES and not _mostly_unlabelled(facts):
        return {"over": 1.0, **reduce}
    if few:
        return {"clusters": min(max(2, round(math.sqrt(facts["rows"] / 2))), facts["rows"])}
    return {"clusters": "auto", **reduce}


def _mostly_unlabelled(facts: Json) -> bool:
    # A few folders beside many loose files say little about what the files show.
    labelled, rows = facts.get("labelled"), int(facts["rows"])
    return labelled is not None and 2 * int(labelled) < rows


def canonical(request: dict[str, Any]) -> dict[str, Any] | None:
    """A clustering's request with every default in its place, equal for requests that mean the same.

    None if this version does not accept it.
    """
    given = {name: value for name, value in request.items() if value is not None}
    try:
        parsed = ClusterRequest.model_validate(given)
    except ValidationError:
        return None
    return parsed.model_dump(mode="json", exclude=NO_EFFECT)


def same_clustering(store: Store, request: dict[str, Any]) -> str | None:
    """The newest clustering of the same request, made by this version of Shoal; None if there is none."""
    wanted = canonical(request)
    if wanted is None:
        return None
    for clustering_id in store.clustering_ids():
        try:
            clustering = store.clustering(clustering_id)
            if canonical(clustering.spec["request"]) == wanted and clustering.run().get("version") == __version__:
                for path in (clustering.layout.report_html, clustering.layout.contact_sheet):
                    clustering.check(path)
                return clustering_id
        except (ShoalError, KeyError, TypeError, ValueError, OSError):
            continue  # Removed meanwhile, or damaged: another one is made.
    return None
