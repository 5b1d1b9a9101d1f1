"""The quality job: images that do not belong, labels that are probably wrong, files that stand out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from shoal.errors import JsonValue
from shoal.jobs.child import JobContext
from shoal.schemas import QualityRequest
from shoal.settings import Settings
from shoal.store import EmbeddingSet
from shoal.store.analyses import QUALITY, AnalysisWriter

from clusterer.cleaning.label_errors import MOST_CLASSES, LabelErrors, find_label_errors, model_bytes, scoring_bytes
from clusterer.cleaning.outliers import Outliers, find_outliers
from clusterer.cleaning.properties import find_issues, small_images
from clusterer.data.rows import IntArray, StoredRows
from clusterer.evaluation.contingency import UNLABELLED
from clusterer.jobs.analysis import FOUND, WRITTEN_AT_ONCE, Need, Progress, Tools, run_analysis
from clusterer.jobs.analysis_plan import set_of
from clusterer.neighbours import Nearest, Options, nearest_rows
from clusterer.neighbours.prepare import blocks_bytes

IMAGE = ("image_id", "image_path", "label")
FACTS = ("width", "height", "bytes", "luma_1", "luma_5", "luma_99", "entropy", "sharpness")
PER_NEIGHBOUR = 40
"""Bytes of a neighbour of a row: its number and similarity, and copies of both while they are merged."""
PER_KEPT_NEIGHBOUR = 12
"""Bytes of one that was found: both."""


def run(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Check a set's images and labels and publish what stands out; the job's result."""
    request = QualityRequest.model_validate(ctx.request)

    def find(sets: tuple[EmbeddingSet, ...], tools: Tools) -> Found:
        rows = StoredRows(sets[0], sets[0].id)
        return judge(sets[0], rows, find_nearest(request, sets[0], rows, tools), tools.progress)

    return run_analysis(ctx, settings, QUALITY, request, lambda store: (set_of(store, request),), find)


def find_nearest(request: QualityRequest, embeddings: EmbeddingSet, rows: StoredRows, tools: Tools) -> Nearest:
    """The nearest rows of every row, or those that an earlier attempt kept.

    Raises
    ------
    MemoryLimitTooSmall
        The neighbours, or what compares labels with them and with a model of the classes, do not fit.
    """
    work, progress = tools.work, tools.progress
    compared = PER_NEIGHBOUR * request.neighbours * rows.n + blocks_bytes(rows.n, rows.dim)
    fewer = Need(compared, "comparing them", ", or fewer `neighbours`")
    free = tools.free_memory(rows, fewer, *label_needs(embeddings, request.neighbours))
    kept = work.arrays("nearest")
    if kept is not None:
        return Nearest(kept["rows"], kept["similarity"])
    options = Options(memory_limit=free - compared, folder=work.folder("search"), on_rows=progress("compare", rows.n))
    found = nearest_rows(rows, request.neighbours, options)
    work.keep_arrays("nearest", {"rows": found.rows, "similarity": found.similarity})
    progress.ctx.advance(FOUND)
    return found


def label_needs(embeddings: EmbeddingSet, neighbours: int) -> list[Need]:
    """What it takes to judge labels, beside all neighbours; nothing without labels."""
    n, dim = embeddings.rows, embeddings.dim
    classes = pc.count_distinct(embeddings.metadata(["label"]).column("label"), mode="only_valid").as_py()
    if not classes:
        return []
    kept = PER_KEPT_NEIGHBOUR * neighbours * n
    needs = [Need(kept + scoring_bytes(n, dim, classes), f"comparing the labels with {classes:,} classes")]
    if classes <= MOST_CLASSES:
        model = f"the model of {classes:,} classes of {dim:,} dimensions"
        needs.append(Need(kept + model_bytes(n, dim, classes), model))
    return needs


def judge(embeddings: EmbeddingSet, rows: StoredRows, nearest: Nearest, progress: Progress) -> Found:
    """Outliers and label errors from the neighbours."""
    table = embeddings.metadata([*IMAGE, *FACTS])
    last = nearest.similarity[:, -1] if nearest.similarity.shape[1] else np.ones(rows.n, np.float32)
    column = table.column("label").combine_chunks()
    codes = column.dictionary_encode()
    names: list[str] = codes.dictionary.to_pylist()
    classes = np.asarray(codes.indices.fill_null(UNLABELLED).to_numpy(zero_copy_only=False), np.int64)
    errors = find_label_errors(rows, classes, nearest.rows, progress("labels", rows.n))
    return Found(table, names, find_outliers(last), errors)


@dataclass(frozen=True)
class Found:
    """What a job found, ready to be written: the most striking rows first."""

    table: pa.Table
    names: list[str]
    outliers: Outliers
    labels: LabelErrors

    @property
    def totals(self) -> dict[str, int]:
        """Numbers of outliers, of labels that are probably wrong, and of properties that stand out."""
        return {
            "outliers": int(np.count_nonzero(self.outliers.outlier)),
            "label_errors": int(np.count_nonzero(self.labels.error)),
            "image_issues": self.issues.num_rows,
            "small_images": small_images(self.table),
        }

    def write(self, writer: AnalysisWriter) -> None:
        """Write the tables."""
        writer.table("outliers", self._outliers())
        writer.table("labels", self._labels())
        writer.table("images", iter([self.issues]))

    def _images(self, rows: IntArray) -> dict[str, pa.ChunkedArray]:
        part = self.table.select(["row", *IMAGE]).take(pa.array(rows))
        return {name: part.column(name) for name in part.column_names}

    def _outliers(self) -> Iterator[pa.Table]:
        found = self.outliers
        order = np.lexsort((np.arange(len(found.p)), -found.distance))
        for first in range(0, len(order), WRITTEN_AT_ONCE):
            rows = order[first : first + WRITTEN_AT_ONCE]
            facts = {"distance": found.distance[rows], "p": found.p[rows], "outlier": found.outlier[rows]}
            yield pa.table({**self._images(rows), **facts})

    def _labels(self) -> Iterator[pa.Table]:
        found = self.labels
        order = np.lexsort((found.rows, found.score))
        for first in range(0, len(order), WRITTEN_AT_ONCE):
            part = order[first : first + WRITTEN_AT_ONCE]
            facts = {
                "suggested": pc.take(pa.array(self.names, pa.string()), pa.array(found.suggested[part])),
                "score": found.score[part],
                "disagreeing": found.disagreeing[part],
                "error": found.error[part],
            }
            yield pa.table({**self._images(found.rows[part]), **facts})

    @cached_property
    def issues(self) -> pa.Table:
        """The table of images that stand out by a property of their files."""
        parts = [QUALITY.tables["images"].empty_table()]
        for name, value, score in find_issues(self.table):
            rows = np.flatnonzero(score < 1)
            facts = {"issue": [name] * len(rows), "value": value[rows], "score": score[rows].astype(np.float32)}
            parts.append(pa.table({**self._images(rows), **facts}).cast(QUALITY.tables["images"]))
        return pa.concat_tables(parts).sort_by([("score", "ascending"), ("row", "ascending")])
