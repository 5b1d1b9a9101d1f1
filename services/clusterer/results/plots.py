"""A sweep's plots, drawn by the worker: as SVG for pages and PNG for other uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from shoal import paper
from shoal.store.sweeps import Row, Sweep

from clusterer.results import plot_parts
from clusterer.results.plot_parts import ACCURACY, ARI, INK, QUIET, REFERENCE, Curve, comparable, curves

DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MODELS = (ACCURACY, "#c2570c", "#2b8a3e", "#8338ad", "#b8860b")
DPI = 150
PCA_CURVES = ("model", "normalize", "whiten", "reduce", "method", "k")
CLUSTER_CURVES = ("model", "normalize", "whiten", "components", "reduce", "method")
UNLABELLED_CURVES = ("scored", *CLUSTER_CURVES)
PERCENT = (0.0, 100.0)


def draw(sweep: Sweep, rows: list[Row], reference: str | None) -> None:
    """Draw the plots that the points allow: one per parameter that varies, those of accuracy only with labels."""
    first = [row for row in rows if row["scored"] == rows[0]["scored"]] if rows else []
    sets = {row["scored"] for row in rows}
    # Several models, each scored on itself, are comparable.
    chosen = rows if len(sets) == len({row["embeddings"] for row in rows}) else first
    known = [row for row in chosen if row["ari"] is not None]
    figures: dict[str, Callable[[], Figure]] = {}
    if _varies(known, _components, PCA_CURVES):
        figures["pca"] = partial(against_components, known, reference)
    if _varies(known, _clusters, CLUSTER_CURVES):
        figures["clusters"] = partial(against_clusters, known, reference)
    if any(row["linear_probe"] is not None for row in known):
        figures["linear-probe"] = partial(against_probe, known, reference)
    if len(known) > 2:
        figures["ari-accuracy"] = partial(ari_against_accuracy, known)
    unlabelled = [row for row in rows if row["ari"] is None and row["silhouette"] is not None]
    if _varies(unlabelled, _clusters, UNLABELLED_CURVES):
        figures["unsupervised"] = partial(without_labels, unlabelled)
    for name, make in figures.items():
        with mpl.rc_context(plot_parts.STYLE):
            figure = make()
            FigureCanvasAgg(figure)
            for extension in ("svg", "png"):
                metadata = {"Date": None} if extension == "svg" else {}
                save = partial(figure.savefig, format=extension, dpi=DPI, metadata=metadata)
                sweep.write_plot(name, extension, save)


def against_components(rows: list[Row], reference: str | None) -> Figure:
    """Accuracy and ARI against the number of principal components."""
    shown, total = comparable(rows, _components, PCA_CURVES)
    points = paper.pca_ablation() if reference == "pca-ablation" else []
    return _twin(shown, total, "PCA components", "accuracy_hungarian_train", points)


def against_clusters(rows: list[Row], reference: str | None) -> Figure:
    """Accuracy and ARI against the number of clusters."""
    per_class = reference == "over-clustering" and all(row["train_classes"] for row in rows)
    shown, total = comparable(
        rows,
        lambda row: row["k"] / row["train_classes"] if per_class else row["k"],
        CLUSTER_CURVES,
    )
    points = paper.over_clustering() if per_class else []
    name = "clusters k as a multiple of the classes" if per_class else "clusters k"
    return _twin(shown, total, name, "accuracy_mixed_train", points)


def against_probe(rows: list[Row], reference: str | None) -> Figure:
    """Accuracy without labels against the accuracy of a linear classifier with labels, one mark per model."""
    figure, axes = plot_parts.canvas()
    best = [row for row in _first_of_each(rows, "embeddings") if row["linear_probe"] is not None]
    x = [100 * row["linear_probe"] for row in best]
    metric = _metric(best, "accuracy_hungarian_train")
    mean, std = Curve("", x, best).band(metric)
    error = [np.minimum(std, mean), np.minimum(std, 100 - mean)]
    axes.errorbar(x, mean, yerr=error, fmt="o", color=ACCURACY, capsize=3, label="this sweep", zorder=3, clip_on=False)
    who = plot_parts.identity(best)
    named = [plot_parts.Mark(a, b, row[who], 8.5, INK) for a, b, row in zip(x, mean.tolist(), best, strict=True)]
    points = paper.models() if reference == "models" else []
    if points:
        xs, ys = [point.probe or 0.0 for point in points], [point.accuracy for point in points]
        axes.plot(xs, ys, "D", ms=5, color=REFERENCE, label="arXiv 2008.10312, ImageNet", mfc="none")
        named += [plot_parts.Mark(point.probe or 0.0, point.accuracy, point.name, 7.5, QUIET) for point in points]
    axes.set_xlabel("accuracy of a linear classifier with labels, %")
    axes.set_ylabel(f"accuracy of k-means, map learnt on {_source(metric)}, %")
    axes.margins(x=0.2, y=0.12)
    low, high = axes.get_xlim()
    axes.set_xlim(max(0.0, low), high)
    axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= min(100.0, high)])
    plot_parts.with_margin(axes, PERCENT)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.01), ncols=2)
    plot_parts.caption(figure, best)
    figure.draw_without_rendering()  # The placement of names needs the size of the axes.
    plot_parts.name_marks(axes, named)
    return figure


def ari_against_accuracy(rows: list[Row]) -> Figure:
    """ARI against accuracy over all points, with the line of least squares."""
    figure, axes = plot_parts.canvas()
    metric = _metric(rows, "accuracy_hungarian_train")
    kept = [row for row in rows if row[metric] is not None]
    who = plot_parts.identity(kept)
    models = list(dict.fromkeys(row[who] for row in kept))
    for model, marker, colour in zip(models, cycle(MARKERS), cycle(MODELS), strict=False):
        own = [row for row in kept if row[who] == model]
        x, y = [100 * row[metric] for row in own], [100 * row["ari"] for row in own]
        axes.plot(x, y, marker, color=colour, mfc="none", ms=5.5, label=model)
    x_all, y_all = (np.array([100 * row[name] for row in kept]) for name in (metric, "ari"))
    fit = line(x_all, y_all)
    if fit is not None:
        slope, offset, r2 = fit
        ends = np.array([x_all.min(), x_all.max()])
        sign = "+" if offset >= 0 else "−"
        text = f"ARI = {slope:.2f} · accuracy {sign} {abs(offset):.1f},  R² = {r2:.2f}"
        axes.plot(ends, slope * ends + offset, "-", color=INK, lw=1.2, label=text)
    axes.set_xlabel(f"accuracy, one to one, map learnt on {_source(metric)}, %")
    axes.set_ylabel("adjusted Rand index, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    plot_parts.caption(figure, kept)
    return figure


def without_labels(rows: list[Row]) -> Figure:
    """Inertia, silhouette and stability against the number of clusters, for sets without labels."""
    figure, axes = plot_parts.canvas()
    found = curves(rows, _clusters, UNLABELLED_CURVES)
    curve = found[0]
    twin = plot_parts.second(axes)
    lines = []
    for where, name, colour, side in (
        (axes, "inertia", QUIET, "left"),
        (twin, "silhouette", ACCURACY, "right"),
        (twin, "stability", ARI, "right"),
    ):
        kept = Curve("", *_where_known(curve, name))
        if not kept.rows:
            continue
        if name != "stability":
            mean, std = kept.band(name, 1.0)
            where.fill_between(kept.x, mean - std, mean + std, color=colour, alpha=0.16, lw=0)
        values = [row[name] for row in kept.rows]
        marker = "o-" if side == "left" else "s-"
        lines += where.plot(kept.x, values, marker, color=colour, ms=4, label=f"{name} ({side})")
    axes.set_xlabel("clusters k")
    axes.set_ylabel("inertia")
    axes.set_ylim(bottom=0.0)
    twin.set_ylabel("silhouette; ARI between seeds")
    plot_parts.whole_numbers(axes)
    axes.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    plot_parts.caption(figure, curve.rows, f"1 of {len(found)} curves" if len(found) > 1 else "")
    return figure


def line(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, float, float] | None:
    """Slope, offset and R² of the line of least squares; None if ``x`` does not vary."""
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    slope, offset = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - slope * x - offset) ** 2).sum())
    return float(slope), float(offset), 1 - rest / total if total else 1.0


def _twin(shown: list[Curve], total: int, x_name: str, wanted: str, reference: list[paper.Figure]) -> Figure:
    """Accuracy on the left axis, ARI on the right, a band of one standard deviation around each."""
    figure, left = plot_parts.canvas()
    right = plot_parts.second(left)
    rows = [row for curve in shown for row in curve.rows]
    metric = _metric(rows, wanted)
    # Groups worse than chance have an ARI below 0.
    limits = {metric: PERCENT, "ari": PERCENT if min(row["ari"] for row in rows) >= 0 else (-100.0, 100.0)}
    lines: list[Any] = []
    for curve, dash, marker in zip(shown, DASHES, MARKERS, strict=False):
        suffix = f" ({curve.name})" if curve.name else ""
        style: dict[str, Any] = {"marker": marker, "ms": 4.5, "lw": 1.7, "clip_on": False}
        for axes, name, colour, text in ((left, metric, ACCURACY, "accuracy"), (right, "ari", ARI, "ARI")):
            mean, std = curve.band(name)
            plot_parts.fill(axes, curve.x, mean, std, colour, within=limits[name])
            lines += axes.plot(curve.x, mean, dash, color=colour, label=text + suffix, **style)
    if reference:
        x, note = [point.x for point in reference], "arXiv 2008.10312, ImageNet"
        accuracy, ari = [point.accuracy for point in reference], [point.ari for point in reference]
        for axes, values, colour, text in ((left, accuracy, ACCURACY, "accuracy"), (right, ari, ARI, "ARI")):
            style = {"color": colour, "alpha": 0.55, "ms": 5, "lw": 0.8, "marker": "D", "mfc": "none"}
            lines += axes.plot(x, values, linestyle=(0, (1, 2)), label=f"{text}, {note}", **style)
    plot_parts.logarithmic(left, sorted({x for curve in shown for x in curve.x} | {point.x for point in reference}))
    left.set_xlabel(x_name)
    rule = "mixed" if "mixed" in metric else "one to one"
    left.set_ylabel(f"accuracy ({rule}, map of {_source(metric)}), %", color=ACCURACY)
    right.set_ylabel("adjusted Rand index, %", color=ARI)
    plot_parts.with_margin(left, limits[metric])
    plot_parts.with_margin(right, limits["ari"])
    left.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=2)
    left_out = f"{len(shown)} of {total} curves" if total > len(shown) else ""
    plot_parts.caption(figure, rows, left_out)
    return figure


def _components(row: Row) -> float:
    return float(row["components"] or row["dim"])


def _clusters(row: Row) -> float:
    return float(row["k"])


def _varies(rows: Sequence[Row], x: Callable[[Row], float], others: Sequence[str]) -> bool:
    """Whether any curve has more than one point; several models of different sizes form no curve."""
    return any(len(set(curve.x)) > 1 for curve in curves(rows, x, others))


def _metric(rows: Sequence[Row], wanted: str) -> str:
    """The metric with the map learnt on train, or on the scored set if the train set has no labels."""
    return wanted if all(row[wanted] is not None for row in rows) else wanted.replace("_train", "_scored")


def _source(metric: str) -> str:
    return "train" if metric.endswith("train") else "the scored set"


def _where_known(curve: Curve, name: str) -> tuple[list[float], list[Row]]:
    kept = [(x, row) for x, row in zip(curve.x, curve.rows, strict=True) if row[name] is not None]
    return [x for x, _ in kept], [row for _, row in kept]


def _first_of_each(rows: Sequence[Row], key: str) -> list[Row]:
    """The first of the rows that share ``key``; labels are not used."""
    found: dict[Any, Row] = {}
    for row in rows:
        found.setdefault(row[key], row)
    return list(found.values())
