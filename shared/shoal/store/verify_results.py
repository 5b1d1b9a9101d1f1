"""Verifying results, or a whole store: checksums where recorded, and the content of every file."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shoal.errors import NotFound, ShoalError
from shoal.schemas.graph import GRAPH_METHODS, NOISE
from shoal.store.analyses import ANALYSES, AnalysisKind
from shoal.store.assigned import AssignedSet
from shoal.store.clustering import check_metrics, check_spec
from shoal.store.documents import first_line
from shoal.store.journal import Subject, check_journal
from shoal.store.layout import (
    AssignedLayout,
    ClusteringLayout,
    SealedLayout,
    StoreLayout,
    SweepLayout,
    ids_in,
    is_id,
    stray_files,
)
from shoal.store.npy import NPY_ERRORS, read_npy, read_npz
from shoal.store.sealed import read_records
from shoal.store.sweeps import Sweep
from shoal.store.table_schemas import (
    ASSIGNMENTS_SCHEMA,
    CLASSES_SCHEMA,
    CLUSTERS_SCHEMA,
    CONFUSION_SCHEMA,
    ITERATIONS_SCHEMA,
    MAP_SCHEMA,
)
from shoal.store.verify import Problem, VerifyReport, check_file, verify_embeddings

PNG = b"\x89PNG\r\n\x1a\n"


def verify_all(store: StoreLayout) -> Iterator[VerifyReport]:
    """Verify every set and every result; a report of its own for each file where only folders belong."""
    for kind, (parent, verify) in _kinds(store).items():
        for name in stray_files(parent):
            stray = Problem(name, f"is not a folder, and {parent} holds only folders: move it elsewhere")
            yield VerifyReport(name, kind=kind, problems=[stray])
        for name in store.embeddings_ids() if kind == "embeddings" else ids_in(parent):
            with suppress(NotFound):  # deleted meanwhile
                yield verify(name)
    yield from _lone_journals(store)


def _lone_journals(store: StoreLayout) -> Iterator[VerifyReport]:
    """Reports on annotations without their clustering, and on files where only their folders belong."""
    parent = store.annotations_folder
    for name in stray_files(parent):
        stray = Problem(name, f"is not a folder, and {parent} holds only folders: move it elsewhere")
        yield VerifyReport(name, kind="annotations", problems=[stray])
    for name in ids_in(parent):
        if not is_annotated(store, name):
            lone = Problem(name, "are annotations of a result that was deleted: `shoal gc` removes them")
            yield VerifyReport(name, kind="annotations", problems=[lone])


def is_annotated(store: StoreLayout, which: str) -> bool:
    """Whether a result of this id may have annotations."""
    results = (store.clustering(which), *(store.analysis(name, which) for name in ANALYSES))
    return any(each.folder.is_dir() for each in results)


def verify_any(store: StoreLayout, which: str) -> VerifyReport:
    """Verify the set or the result of an id.

    Raises
    ------
    NotFound
        The store has no such id.
    """
    if is_id(which) and store.embeddings(which).is_there():
        return verify_embeddings(store.embeddings(which))
    for parent, verify in _kinds(store).values():
        if is_id(which) and (parent / which).is_dir():
            return verify(which)
    raise NotFound(f"{store.root} has no embeddings or result {which!r}: `shoal ls` lists the ids.")


def _kinds(store: StoreLayout) -> dict[str, tuple[Path, Callable[[str], VerifyReport]]]:
    return {
        "embeddings": (store.embeddings_folder, lambda name: verify_embeddings(store.embeddings(name))),
        "clustering": (store.clusterings_folder, lambda name: _verify_with_journal(store, name)),
        "sweep": (store.sweeps_folder, lambda name: verify_sweep(store.sweep(name))),
        "assignments": (store.assignments_folder, lambda name: verify_assigned(store.assigned(name))),
        **{
            name: (store.analyses_folder(name), partial(_verify_analysis, store, each))
            for name, each in ANALYSES.items()
        },
    }


def _verify_with_journal(store: StoreLayout, clustering_id: str) -> VerifyReport:
    """Check every file of a clustering, and the journal of its annotations."""
    layout = store.clustering(clustering_id)
    report = verify_clustering(layout)
    try:
        k = int(_json(layout.spec)["k"])
    except (KeyError, OSError, TypeError, ValueError):
        k = None  # The report says so already.
    check_journal(store, clustering_id, report, k)
    return report


def verify_clustering(layout: ClusteringLayout) -> VerifyReport:
    """Check every file of a clustering.

    The checksums are in files.json. Older clusterings have none: only the content of their files is checked.
    """
    report = VerifyReport(layout.folder.name, kind="clustering", complete=True)
    recorded = _check_records(layout, report)
    if recorded is None:
        report.files = sum(1 for path in layout.folder.rglob("*") if path.is_file())
    # Files with a wrong checksum are reported already.
    damaged = {problem.file for problem in report.problems}
    _ContentChecks(layout, report, damaged).check()
    return report


def _check_records(layout: SealedLayout, report: VerifyReport) -> set[str] | None:
    """Compare the files with their records; None if the clustering has none."""
    if not layout.files.exists():
        return None
    try:
        records = read_records(layout)
    except (OSError, ValueError) as error:
        report.add("files.json", f"cannot be read: {first_line(error)}")
        return None
    report.files += 1
    for record in records.values():
        check_file(record, layout.folder / record.path, report)
    there = {layout.name_of(path) for path in layout.folder.rglob("*") if path.is_file()}
    for name in sorted(there - records.keys() - {"files.json"}):
        report.add(name, f"is not a file of this {report.kind}: it was added later")
    return set(records)


def _sealed_report(layout: SealedLayout, kind: str) -> VerifyReport:
    """The files of a result compared with files.json, which every one of this kind has."""
    report = VerifyReport(layout.folder.name, kind=kind, complete=True)
    if _check_records(layout, report) is None and not report.problems:
        report.add("files.json", "is missing")
    return report


class _ContentChecks:
    """Whether the files of a clustering can be read and agree with spec.json."""

    def __init__(self, layout: ClusteringLayout, report: VerifyReport, damaged: set[str]) -> None:
        self._layout, self._report, self._damaged = layout, report, damaged
        self._spec: dict[str, Any] = {}

    def check(self) -> None:
        layout = self._layout
        checks: dict[Path, Callable[[Path], None]] = {
            layout.spec: self._spec_json,
            layout.metrics: lambda path: check_metrics(_json(path), self._spec),
            layout.run: lambda path: _require(bool(_json(path)), "is empty"),
            layout.transform: self._transform,
            layout.centroids: self._centroids,
            **({layout.head: self._head} if layout.head.is_file() or self._is_by_head() else {}),
            **({layout.graph: self._graph} if layout.graph.is_file() or self._method in GRAPH_METHODS else {}),
            layout.assignments: self._assignments,
            layout.clusters: self._clusters,
            **({layout.map: self._map} if layout.map.is_file() else {}),  # older clusterings have none
            **({layout.reduction: self._reduction} if layout.reduction.is_file() else {}),
            layout.classes: lambda path: _table(path, CLASSES_SCHEMA),
            layout.confusion: lambda path: _table(path, CONFUSION_SCHEMA),
            layout.iterations: lambda path: _table(path, ITERATIONS_SCHEMA),
            layout.report_html: lambda path: _require(b"</html>" in path.read_bytes()[-200:], "is cut off"),
            layout.contact_sheet: lambda path: _require(path.read_bytes()[:8] == PNG, "is not a PNG file"),
        }
        for path, check in checks.items():
            with self._reporting(path):
                check(path)
            if path == layout.spec and not self._spec:
                return
        for seed in self._spec["seeds"]:
            with self._reporting(layout.seed_centroids(seed)):
                self._centroids(layout.seed_centroids(seed))
            with self._reporting(layout.seed_head(seed)):
                if layout.seed_head(seed).is_file() or self._is_by_head():
                    self._head(layout.seed_head(seed))

    @contextmanager
    def _reporting(self, path: Path) -> Iterator[None]:
        name = self._layout.name_of(path)
        try:
            yield
        except FileNotFoundError:
            problem = "is missing"
        except (KeyError, OSError, pa.ArrowException, zipfile.BadZipFile, *NPY_ERRORS) as error:
            problem = _said(error)
        else:
            return
        if name not in self._damaged:
            self._report.add(name, problem)

    def _spec_json(self, path: Path) -> None:
        spec = _json(path)
        check_spec(spec)
        self._spec = spec

    def _transform(self, path: Path) -> None:
        found = read_npz(path)
        taken, dim = int(found["dim_in"]), self._spec["dim"]
        _require(taken == dim, f"is for {taken} dimensions, but spec.json has `dim` {dim}")

    def _reduction(self, path: Path) -> None:
        arrays, n = read_npz(path), self._spec["n"]
        rows = len(arrays["coordinates" if "coordinates" in arrays else "least"])
        _require(rows == n, f"is of {rows} rows, but spec.json has `n` {n}")

    def _centroids(self, path: Path) -> None:
        centroids = read_npy(path)
        reduced = self._spec.get("reduce") or {}
        columns = reduced.get("components", self._spec.get("dim_clustered", centroids.shape[-1]))
        # The seeds of a method that finds the number of groups may find different ones.
        own = path == self._layout.centroids or self._method not in GRAPH_METHODS
        shape = (self._spec["k"] if own else len(centroids), columns)
        _require(centroids.shape == shape, f"has the shape {centroids.shape}; expected {shape}")
        _require(bool(np.isfinite(centroids).all()), "holds NaN or infinity")

    def _is_by_head(self) -> bool:
        """Whether the request asks for a method of which a head is stored."""
        return self._method not in ("kmeans", *GRAPH_METHODS)

    @property
    def _method(self) -> str:
        """The method that the request asks for."""
        try:
            return str(_json(self._layout.spec)["request"].get("method", "kmeans"))
        except (AttributeError, KeyError, OSError, ValueError):
            return "kmeans"  # The report says so already.

    def _graph(self, path: Path) -> None:
        found = read_npz(path)
        labels, rows, n = found["labels"], found.get("firsts", found["labels"]), self._spec["n"]
        _require(len(labels) == len(rows) <= n, f"is of {len(labels)} rows, but spec.json has `n` {n}")
        _require("firsts" in found or len(labels) == n, f"is of {len(labels)} rows, but spec.json has `n` {n}")
        k = self._spec["k"]
        _require(int(labels.min()) >= self._lowest and int(labels.max()) < k, f"has groups outside 0 to {k - 1}")

    @property
    def _lowest(self) -> int:
        """The lowest number of a cluster."""
        return NOISE if self._spec.get("noise") else 0

    def _head(self, path: Path) -> None:
        found = read_npz(path)
        _require(all(bool(np.isfinite(each).all()) for each in found.values()), "holds NaN or infinity")
        wide, dim = int(found["widths"].sum()), self._spec.get("dim_clustered", self._spec["dim"])
        _require(wide == dim, f"is for {wide} dimensions; expected {dim}")

    def _assignments(self, path: Path) -> None:
        table = _table(path, ASSIGNMENTS_SCHEMA)
        scored, k = self._spec["scored"], self._spec["k"]
        names = table.column("embeddings").cast(pa.string()).to_numpy()
        rows, clusters = table.column("row").to_numpy(), table.column("cluster").to_numpy()
        _require(
            len(clusters) == 0 or self._lowest <= clusters.min() <= clusters.max() < k,
            f"has clusters outside {self._lowest} to {k - 1}",
        )
        counts = {name: int(np.count_nonzero(names == name)) for name in scored}
        _require(sum(counts.values()) == len(names), "has rows of sets that were not scored")
        own = counts.get(self._spec["train"])
        _require(own in {None, self._spec["n"]}, f"has {own} rows of the train set; expected {self._spec['n']}")
        for name in counts:
            numbers = rows[names == name]
            if name == self._spec["train"] and self._spec.get("where"):
                _require(bool((np.diff(numbers) > 0).all()), f"does not list the rows of {name} in ascending order")
            else:
                counted = np.array_equal(numbers, np.arange(len(numbers)))
                _require(counted, "does not count the rows of each set from 0 in its column `row`")

    def _map(self, path: Path) -> None:
        table, assigned = _table(path, MAP_SCHEMA), _table(self._layout.assignments, ASSIGNMENTS_SCHEMA)
        same = all(
            table.column(name).cast(kind).equals(assigned.column(name).cast(kind))
            for name, kind in (("embeddings", pa.string()), ("row", pa.int64()))
        )
        _require(same, "does not have the rows of assignments.parquet")
        _require(
            all(bool(np.isfinite(table.column(name).to_numpy()).all()) for name in ("x", "y")),
            "holds NaN or infinity",
        )

    def _clusters(self, path: Path) -> None:
        table = _table(path, CLUSTERS_SCHEMA)
        numbers = [*range(self._spec["k"]), *([NOISE] if self._spec.get("noise") else [])]
        expected = [(name, each) for name in self._spec["scored"] for each in numbers]
        found = list(zip(*(table.column(name).to_pylist() for name in ("embeddings", "cluster")), strict=True))
        _require(found == expected, "does not have one row per scored set and cluster")


def verify_assigned(layout: AssignedLayout) -> VerifyReport:
    """Check every file of assignments."""
    report = _sealed_report(layout, "assignments")
    if report.problems:
        return report
    try:
        found = AssignedSet(layout)
        rows, k = found.spec["rows"], found.spec["k"]
        table = _table(layout.rows, found.assignments_schema())
        clusters = table.column("cluster").to_numpy()
        _require(np.array_equal(table.column("row").to_numpy(), np.arange(rows)), f"does not have the rows 0 to {rows}")
        low = NOISE if found.spec.get("noise") else 0
        _require(rows == 0 or low <= clusters.min() <= clusters.max() < k, f"has clusters outside {low} to {k - 1}")
    except (ShoalError, pa.ArrowException, OSError, ValueError) as error:
        report.add(layout.name_of(layout.rows), _said(error))
    return report


def _verify_analysis(store: StoreLayout, kind: AnalysisKind, which: str) -> VerifyReport:
    """Check every file of an analysis, and the journal of its decisions."""
    layout = store.analysis(kind.name, which)
    report = _sealed_report(layout, kind.name)
    check_journal(store, Subject.analysis(store, kind, which), report, None)
    if report.problems:
        return report
    for name, schema in kind.tables.items():
        path = layout.table(name)
        try:
            _table(path, schema)
        except (ShoalError, pa.ArrowException, OSError, KeyError, ValueError) as error:
            report.add(layout.name_of(path), _said(error))
    return report


def verify_sweep(layout: SweepLayout) -> VerifyReport:
    """Check the content of every document of a sweep; sweeps have no checksums."""
    report = VerifyReport(layout.folder.name, kind="sweep")
    report.files = sum(1 for path in layout.folder.rglob("*") if path.is_file())
    try:
        sweep = Sweep(layout)
        report.complete, total = sweep.complete, sweep.total
        finished = sweep.finished_points()
    except (ShoalError, TypeError, ValueError) as error:
        report.add("spec.json", first_line(error))
        return report
    for index in finished:
        path = layout.point(index)
        try:
            document = _json(path)
            wrong = document.get("index") != index or not isinstance(document.get("scored"), dict)
            failure = document.get("error", {"code": "", "message": ""})
            wrong = wrong or not isinstance(failure, dict) or not {"code", "message"} <= set(failure)
            problem = f"is not a result of point {index}" if wrong else None
        except (OSError, ValueError) as error:
            problem = _said(error)
        if problem:
            report.add(layout.name_of(path), problem)
    if report.complete:
        _check_end(layout, finished, total, report)
    return report


def _check_end(layout: SweepLayout, finished: list[int], total: int, report: VerifyReport) -> None:
    if finished != list(range(total)):
        report.add("done.json", f"says that the sweep is complete, but only {len(finished)} of {total} points exist")
    try:
        _json(layout.done)
    except (OSError, ValueError) as error:
        report.add("done.json", _said(error))
    for path in sorted(layout.plots.glob("[!.]*")) if layout.plots.is_dir() else ():  # `shoal gc` finds the others
        content = path.read_bytes()
        if not (content.startswith(PNG) if path.suffix == ".png" else b"</svg>" in content[-200:]):
            report.add(layout.name_of(path), "is cut off, or not an image")


def _json(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_bytes())
    _require(isinstance(document, dict), "is not a JSON object")
    found: dict[str, Any] = document
    return found


def _table(path: Path, schema: pa.Schema) -> pa.Table:
    return pq.read_table(path, columns=schema.names, partitioning=None).select(schema.names)


class _Wrong(ValueError):
    """What is wrong with a file that can be read: the end of a sentence that starts with its name."""


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, _Wrong) else f"cannot be read: {first_line(error)}"


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _Wrong(problem)
