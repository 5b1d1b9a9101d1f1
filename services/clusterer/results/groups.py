"""The groups of a clustering as pages show them: sorted, searched, merged and corrected, and the images of each."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from shoal.errors import ClusterNotFound, InvalidRequest, JsonValue
from shoal.store.annotations import Annotations
from shoal.store.clustering import Clustering

from clusterer.data.rows import IntArray
from clusterer.evaluation.contingency import UNLABELLED, LabelledSet
from clusterer.kmeans.assigned import Assigned
from clusterer.results.images import SetImages
from clusterer.results.named import Named
from clusterer.results.read import SUMMARY_COLUMNS
from clusterer.results.set_rows import SetRows
from clusterer.results.tables import describe_clusters

OUTLIER_QUANTILE: Final = 0.99
"""A row is an outlier if it is farther from its centroid than this share of the train set's rows are from theirs."""
Order = Literal["asc", "desc"]
SORTS: Final[dict[str, Order]] = {
    "size": "desc",
    "purity": "desc",
    "tightness": "asc",
    "name": "asc",
    "flag": "asc",
    "number": "asc",
    "distance": "asc",
}
"""Orders of groups, and their direction by default."""


class Groups:
    """A clustering, with what pages need of it again and again. Many threads may use one."""

    def __init__(self, clustering: Clustering) -> None:
        self.clustering = clustering
        self._lock = threading.Lock()
        self._rows: dict[str, SetRows] = {}
        self._limit: float | None = None
        self._named: tuple[str, Named] | None = None
        self._merged: dict[str, tuple[int, pa.Table]] = {}
        self._compared: weakref.WeakKeyDictionary[SetImages, bool] = weakref.WeakKeyDictionary()

    @property
    def bytes(self) -> int:
        """Bytes of memory, about."""
        tables = [table for _, table in list(self._merged.values())]
        return int(sum(each.bytes for each in list(self._rows.values())) + sum(each.nbytes for each in tables))

    def named(self, said: Annotations) -> Named:
        """What was said of the clusters, made once for each state of the journal."""
        with self._lock:
            if self._named is None or self._named[0] != said.version:
                self._named = said.version, Named.of(said, self.clustering.k, noisy=self.clustering.noisy)
                self._merged = {}
            return self._named[1]

    def merged(self, view: View) -> pa.Table:
        """The groups of a set after merges and moves, made once for each state of the journal."""
        with self._lock:
            # Of a state that is no longer the last one nothing is kept.
            tables = self._merged if self._named is not None and self._named[1] is view.named else {}
        labels = view.images.number if view.images else 0
        known = tables.get(view.embeddings_id)
        if known is None or known[0] != labels:
            known = tables[view.embeddings_id] = labels, view.described()
        return known[1]

    def made_of(self, images: SetImages) -> bool:
        """Whether a set still has the images that were clustered: one that was made again may have others."""
        if images not in self._compared:
            table = self.clustering.assignments(images.id, columns=["row", "image_id"])
            self._compared[images] = images.have(table.column("row"), table.column("image_id"))
        return self._compared[images]

    def rows(self, embeddings_id: str) -> SetRows:
        """The rows of a scored set."""
        with self._lock:
            found = self._rows.get(embeddings_id)
            if found is None:
                found = self._rows[embeddings_id] = SetRows.of(self.clustering, embeddings_id)
            return found

    def outlier_distance(self) -> float:
        """The distance beyond which a row is an outlier, as in `/assign`; NaN if the train set was not scored."""
        if self._limit is None:
            train = self.clustering.spec.get("train")
            known = self.rows(train).distance if train in self.clustering.scored else np.empty(0, np.float32)
            at = min(math.ceil(OUTLIER_QUANTILE * len(known)), len(known)) - 1
            self._limit = float(np.partition(known, at)[at]) if len(known) else math.nan
        return self._limit


@dataclass(frozen=True)
class Wanted:
    """Which groups are listed, and in which order; see `GET /clusterings/{id}/clusters`."""

    sort: str = "size"
    order: Order | None = None
    offset: int = 0
    limit: int = 100
    covers: int = 0
    q: str | None = None
    label: str | None = None
    flag: str | None = None
    flagged: bool | None = None
    named: bool | None = None
    merged: bool = False
    to: int | None = None
    clusters: frozenset[int] | None = None

    @property
    def needs_images(self) -> bool:
        """Whether paths or labels of images are needed."""
        return self.merged or self.q is not None or self.label is not None


@dataclass(frozen=True)
class View:
    """One scored set of a clustering as it is named now.

    Attributes
    ----------
    images
        None if the embeddings were deleted, or where nobody asks for paths or labels.
    """

    groups: Groups
    embeddings_id: str
    named: Named
    images: SetImages | None

    @property
    def k(self) -> int:
        """Number of clusters that were found, with noise."""
        return self.groups.clustering.slots

    def root(self, cluster: int) -> int:
        """The group that a cluster is part of.

        Raises
        ------
        ClusterNotFound
            The clustering has no such cluster.
        """
        clustering = self.groups.clustering
        if not clustering.has(cluster):
            raise ClusterNotFound(
                f"Clustering {clustering.id!r} has clusters {clustering.numbers_text}, not {cluster}.",
                clusters=clustering.k,
            )
        return int(self.named.roots[cluster])

    def clusters(self, *, merged: bool) -> pa.Table:
        """A row a cluster that k-means found, or, ``merged``, a row a group after merges and moves."""
        return self.groups.merged(self) if merged else self._found()

    def _found(self) -> pa.Table:
        return self.groups.clustering.clusters(self.embeddings_id).select([*SUMMARY_COLUMNS, "nearest"])

    def described(self) -> pa.Table:
        """A row a group after merges and moves."""
        table, touched = self._found(), self._touched()
        if not touched.any():
            return table
        untouched = ~touched & (self.named.roots == self.named.numbers)
        made = self._described(np.flatnonzero(touched), table.column("label").combine_chunks())
        return pa.concat_tables([table.filter(pa.array(untouched)), made.cast(table.schema)])

    def after(self) -> NDArray[np.int32]:
        """``(n,) int32``: the group of each row after moves and merges."""
        rows = self.groups.rows(self.embeddings_id)
        return self.named.moved(self.embeddings_id, rows.row, rows.cluster)

    def _touched(self) -> NDArray[np.bool_]:
        """``(k,)``: the groups whose figures differ from those that k-means left: by merges, or by moves."""
        roots = self.named.roots
        touched: NDArray[np.bool_] = np.bincount(self.named.slots(roots), minlength=self.k) > 1
        if self.embeddings_id in self.named.moves:
            moved, targets = self.named.moves[self.embeddings_id]
            rows = self.groups.rows(self.embeddings_id)
            touched[roots[targets]] = True
            touched[roots[rows.cluster[np.isin(rows.row, moved)]]] = True
        return touched

    def _described(self, numbers: IntArray, labels: pa.Array) -> pa.Table:
        rows, after = self.groups.rows(self.embeddings_id), self.after()
        place = np.full(self.k, -1, np.int32)
        place[numbers] = np.arange(len(numbers))
        at = np.flatnonzero(place[after] >= 0)
        row = rows.row[at]
        codes, vocabulary = self.images.labels if self.images else (None, ())
        classes = np.full(len(at), UNLABELLED, np.int64) if codes is None else codes[row]
        assigned = Assigned(place[after[at]], rows.distance[at], rows.margin[at], 0.0)
        labelled = LabelledSet(self.embeddings_id, classes, vocabulary)
        made = describe_clusters(labelled, assigned, labels.take(pa.array(numbers)))
        nearest = made.column("nearest").combine_chunks()
        shown = pa.ListArray.from_arrays(nearest.offsets, pa.array(row[np.asarray(nearest.values)]))
        columns = {name: made.column(name) for name in SUMMARY_COLUMNS}
        return pa.table({**columns, "cluster": pa.array(self.named.numbers[numbers]), "nearest": shown})

    def matching(self, wanted: Wanted) -> dict[str, IntArray]:
        """``(k,)`` each: the rows of every cluster or group that have the text (``q``), the ``label``, and ``both``."""
        sought = {name: text for name in ("q", "label") if (text := getattr(wanted, name)) is not None}
        if not sought:
            return {}
        if self.images is None:
            return dict.fromkeys((*sought, "both"), np.zeros(self.k, np.int64))
        find = {"q": self.images.containing, "label": self.images.with_label}
        masks = {name: find[name](text) for name, text in sought.items()}
        masks["both"] = np.logical_and.reduce(list(masks.values()))
        rows = self.groups.rows(self.embeddings_id)
        of = self.named.slots(self.after() if wanted.merged else rows.cluster)
        return {name: np.bincount(of[mask[rows.row]], minlength=self.k) for name, mask in masks.items()}

    def distances(self, cluster: int, *, merged: bool) -> NDArray[np.float64]:
        """``(k,) float64``: how far the centroids are from that of a cluster; of groups, their nearest two.

        Noise has no centroid: it is NaN away, and all are NaN away from it.
        """
        centroids = self.groups.clustering.centroids().astype(np.float64)
        if self.groups.clustering.noisy:
            centroids = np.append(centroids, np.full((1, centroids.shape[1]), np.nan), axis=0)
        roots = self.named.slots(self.named.roots)
        at = self.named.slots(np.array([self.root(cluster) if merged else cluster], np.int32))
        mine = roots == at if merged else np.arange(self.k) == at
        norms = np.einsum("ij,ij->i", centroids, centroids)
        squared = norms[:, None] + norms[mine] - 2 * centroids @ centroids[mine].T
        found: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0)).min(axis=1)
        found[mine] = 0
        if not merged:
            return found
        of_group = np.full(self.k, np.inf)
        np.fmin.at(of_group, roots, found)
        return of_group


def list_groups(view: View, wanted: Wanted) -> tuple[int, list[dict[str, JsonValue]]]:
    """How many clusters or groups match, and those of the page."""
    table = _with_names(view, view.clusters(merged=wanted.merged), wanted)
    cluster = table.column("cluster").to_numpy()
    matching = {name: counts[cluster] for name, counts in view.matching(wanted).items()}
    if matching:
        table = table.append_column("matches", pa.array(matching["both"]))
    table = table.filter(pa.array(_kept(table, wanted, matching)))
    page = table.take(_sorted(table, wanted).slice(wanted.offset, wanted.limit))
    parts = _parts(view.named) if wanted.merged else {}
    found: list[dict[str, JsonValue]] = page.drop_columns(["number", "nearest"]).to_pylist()
    nearest = page.column("nearest").to_pylist() if wanted.covers else []
    for each in found if wanted.merged else ():
        each["parts"] = parts.get(each["cluster"], [each["cluster"]])
    for each, rows in zip(found, nearest, strict=False):
        each["covers"] = rows[: wanted.covers]
    return table.num_rows, found


def _with_names(view: View, table: pa.Table, wanted: Wanted) -> pa.Table:
    cluster = table.column("cluster").to_numpy()
    merged, names, flags = view.named.columns(view.named.roots[cluster])
    for name, column in (("merged_cluster", merged), ("name", names), ("flag", flags)):
        table = table.append_column(name, column)
    if wanted.sort == "distance":
        if wanted.to is None:
            raise InvalidRequest("`sort=distance` needs `to`, the cluster that distances are from.", field="to")
        view.root(wanted.to)
        away = view.distances(wanted.to, merged=wanted.merged)[cluster]
        table = table.append_column("distance", pa.array(away, mask=~np.isfinite(away)))
    return table.append_column("number", table.column("cluster"))


def _kept(table: pa.Table, wanted: Wanted, matching: Mapping[str, IntArray]) -> NDArray[np.bool_]:
    """``(m,)``: the rows of a table of groups that were asked for."""
    kept = np.ones(table.num_rows, np.bool_)
    names, flags = table.column("name"), table.column("flag")
    if wanted.q is not None:
        kept &= _true(pc.match_substring(names, wanted.q, ignore_case=True)) | (matching["q"] > 0)
    if wanted.label is not None:
        kept &= matching["label"] > 0
    if wanted.clusters is not None:
        kept &= np.isin(table.column("cluster").to_numpy(), list(wanted.clusters))
    if wanted.flag is not None:
        kept &= _true(pc.equal(flags, wanted.flag))
    for asked, column in ((wanted.flagged, flags), (wanted.named, names)):
        if asked is not None:
            kept &= _true(column.is_valid()) == asked
    return kept


def _true(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Booleans, with False for null."""
    return np.asarray(pc.fill_null(column, False)).astype(np.bool_)


def _sorted(table: pa.Table, wanted: Wanted) -> pa.Array:
    order = "descending" if (wanted.order or SORTS[wanted.sort]) == "desc" else "ascending"
    keys = [(wanted.sort, order)] if wanted.sort == "number" else [(wanted.sort, order), ("number", "ascending")]
    return pc.sort_indices(table, sort_keys=keys)


def _parts(named: Named) -> dict[int, list[int]]:
    """The clusters of each group of more than one, its own number first."""
    found: dict[int, list[int]] = {}
    for cluster in np.flatnonzero(named.roots != named.numbers).tolist():
        root = int(named.roots[cluster])
        found.setdefault(root, [root]).append(cluster)
    return found


def list_members(view: View, cluster: int, *, order: str, offset: int, limit: int) -> dict[str, JsonValue]:
    """The images of the group that a cluster is part of: a page of them, and how many there are.

    Those that were moved there come first: they have no place by their distance to this cluster.
    """
    root = view.root(cluster)
    rows, after = view.groups.rows(view.embeddings_id), view.after()
    at = np.flatnonzero(after == root)
    moved = view.named.roots[rows.cluster[at]] != root
    by = {"nearest": rows.distance[at], "farthest": -rows.distance[at], "borderline": rows.margin[at]}[order]
    page = at[np.lexsort((at, by, ~moved))[offset : offset + limit]]
    return {
        "embeddings": view.embeddings_id,
        "cluster": root,
        "order": order,
        "total": len(at),
        "offset": offset,
        "members": _members(view, rows, page, root),
    }


def _members(view: View, rows: SetRows, page: IntArray, root: int) -> list[dict[str, JsonValue]]:
    limit = view.groups.outlier_distance()
    numbers = rows.row[page]
    said = view.images.described(numbers) if view.images else [(None, None)] * len(page)
    found: list[dict[str, JsonValue]] = []
    for at, row, (path, label) in zip(page.tolist(), numbers.tolist(), said, strict=True):
        cluster, distance, margin = int(rows.cluster[at]), float(rows.distance[at]), float(rows.margin[at])
        found.append(
            {
                "row": row,
                "image_path": path,
                "label": label,
                "cluster": cluster,
                "distance": distance,
                "margin": margin,
                "is_outlier": None if math.isnan(limit) or math.isnan(distance) else distance > limit,
                "moved_from": cluster if int(view.named.roots[cluster]) != root else None,
            }
        )
    return found


def beside(view: View, cluster: int) -> Mapping[str, int | None]:
    """The groups before and after the one of a cluster, the largest first, as `list_groups` sorts by default."""
    groups = np.flatnonzero(view.named.roots == view.named.numbers)
    sizes = np.bincount(view.named.slots(view.after()), minlength=view.k)[groups]
    numbers: list[int] = view.named.numbers[groups[np.lexsort((groups, -sizes))]].tolist()
    at = numbers.index(view.root(cluster))
    return {
        "previous": numbers[at - 1] if at else None,
        "next": numbers[at + 1] if at + 1 < len(numbers) else None,
    }
