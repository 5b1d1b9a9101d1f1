"""A sweep's plots, drawn by the worker: SVG to read on a page, PNG for everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from shoal import paper
from shoal.store.sweeps import Sweep

from clusterer.sweeps.table import Row

ACCURACY, ARI, QUIET, REFERENCE = "#0b5fb0", "#c2570c", "#5d6873", "#8a949e"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "shoal",
}
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D")
MOST_SERIES = 4
SWITCHES = {"normalize": ("not normalised", "normalised"), "whiten": ("not whitened", "whitened")}
SIZE, DPI = (7.6, 4.8), 150


@dataclass(frozen=True)
class Curve:
    """Points that differ in one parameter only."""

    name: str
    x: list[float]
    rows: list[Row]

    def band(self, metric: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Mean and standard deviation in percent; no deviation counts as none."""
        mean = np.array([100 * row[metric] for row in self.rows])
        return mean, np.array([100 * (row[f"{metric}_std"] or 0.0) for row in self.rows])


def draw(sweep: Sweep, rows: list[Row], reference: str | None) -> None:
    """Draw what the points allow: a parameter that does not vary has no plot, and without labels there is none."""
    first = [row for row in rows if row["scored"] == rows[0]["scored"]] if rows else []
    sets = {row["scored"] for row in rows}
    # Several models, each scored on itself, are compared all the same.
    chosen = rows if len(sets) == len({row["embeddings"] for row in rows}) else first
    known = [row for row in chosen if row["ari"] is not None]
    figures: dict[str, Callable[[], Figure]] = {}
    if len({row["components"] or row["dim"] for row in known}) > 1:
        figures["pca"] = partial(against_components, known, reference)
    if len({row["k"] for row in known}) > 1:
        figures["clusters"] = partial(against_clusters, known, reference)
    if any(row["linear_probe"] is not None for row in known):
        figures["linear-probe"] = partial(against_probe, known, reference)
    if len(known) > 2:
        figures["ari-accuracy"] = partial(ari_against_accuracy, known)
    unlabelled = [row for row in rows if row["ari"] is None and row["silhouette"] is not None]
    if len({row["k"] for row in unlabelled}) > 1:
        figures["unsupervised"] = partial(without_labels, unlabelled)
    for name, make in figures.items():
        with mpl.rc_context(STYLE):
            figure = make()
            FigureCanvasAgg(figure)
            for extension in ("svg", "png"):
                metadata = {"Date": None} if extension == "svg" else {}
                save = partial(figure.savefig, format=extension, dpi=DPI, metadata=metadata)
                sweep.write_plot(name, extension, save)


def against_components(rows: list[Row], reference: str | None) -> Figure:
    """Accuracy and ARI against the number of principal components."""
    found = curves(rows, lambda row: row["components"] or row["dim"], ("model", "normalize", "whiten", "k"))
    points = paper.pca_ablation() if reference == "pca-ablation" else []
    ticks = sorted({x for curve in found for x in curve.x})
    shown = [(point.x, point.accuracy, point.ari) for point in points]
    return _twin(found, "PCA components", "accuracy_hungarian_train", ticks, shown)


def against_clusters(rows: list[Row], reference: str | None) -> Figure:
    """Accuracy and ARI against the number of clusters."""
    per_class = reference == "over-clustering" and all(row["train_classes"] for row in rows)
    found = curves(
        rows,
        lambda row: row["k"] / row["train_classes"] if per_class else row["k"],
        ("model", "normalize", "whiten", "components"),
    )
    points = paper.over_clustering() if per_class else []
    ticks = sorted({x for curve in found for x in curve.x})
    shown = [(point.x, point.accuracy, point.ari) for point in points]
    name = "clusters k as a multiple of the classes" if per_class else "clusters k"
    return _twin(found, name, "accuracy_mixed_train", ticks, shown)


def against_probe(rows: list[Row], reference: str | None) -> Figure:
    """Accuracy without labels against the accuracy of a linear classifier with labels, a mark a model."""
    figure, axes = _figure()
    best = [row for row in _best_of_each(rows, "embeddings") if row["linear_probe"] is not None]
    x = [100 * row["linear_probe"] for row in best]
    metric = _metric(best, "accuracy_hungarian_train")
    y = [100 * row[metric] for row in best]
    error = [100 * (row[f"{metric}_std"] or 0.0) for row in best]
    axes.errorbar(x, y, yerr=error, fmt="o", color=ACCURACY, capsize=3, label="this sweep", zorder=3)
    _name_marks(axes, x, y, [row["model"] for row in best], 8.5, "#1c2126")
    points = paper.models() if reference == "models" else []
    if points:
        xs, ys = [point.probe or 0.0 for point in points], [point.accuracy for point in points]
        axes.plot(xs, ys, "D", ms=5, color=REFERENCE, label="arXiv 2008.10312, ImageNet", mfc="none")
        _name_marks(axes, xs, ys, [point.name for point in points], 7.5, QUIET)
    axes.set_xlabel("accuracy of a linear classifier with labels, %")
    axes.set_ylabel("accuracy of k-means, map learnt on train, %")
    axes.margins(x=0.2, y=0.12)
    axes.legend(loc="upper left")
    return figure


def ari_against_accuracy(rows: list[Row]) -> Figure:
    """ARI against accuracy over all points, with the line of least squares."""
    figure, axes = _figure()
    metric = _metric(rows, "accuracy_hungarian_train")
    kept = [row for row in rows if row[metric] is not None]
    models = list(dict.fromkeys(row["model"] for row in kept))
    for model, marker in zip(models, MARKERS * len(models), strict=False):
        own = [row for row in kept if row["model"] == model]
        x, y = [100 * row[metric] for row in own], [100 * row["ari"] for row in own]
        axes.plot(x, y, marker, color=ACCURACY, mfc="none", ms=5.5, label=model)
    x_all, y_all = (np.array([100 * row[name] for row in kept]) for name in (metric, "ari"))
    fit = line(x_all, y_all)
    if fit is not None:
        slope, offset, r2 = fit
        ends = np.array([x_all.min(), x_all.max()])
        sign = "+" if offset >= 0 else "−"
        text = f"ARI = {slope:.2f} · accuracy {sign} {abs(offset):.1f},  R² = {r2:.2f}"
        axes.plot(ends, slope * ends + offset, "-", color=ARI, lw=1.6, label=text)
    axes.set_xlabel("accuracy, one to one, map learnt on train, %")
    axes.set_ylabel("adjusted Rand index, %")
    axes.legend(loc="best")
    return figure


def without_labels(rows: list[Row]) -> Figure:
    """Inertia, silhouette and stability against the number of clusters, where there are no labels."""
    figure, axes = _figure()
    ordered = sorted(_best_of_each(rows, "k"), key=lambda row: row["k"])
    k = [row["k"] for row in ordered]
    twin = _second(axes)
    lines = [*axes.plot(k, [row["inertia"] for row in ordered], "o-", color=QUIET, ms=4, label="inertia (left)")]
    for name, colour in (("silhouette", ACCURACY), ("stability", ARI)):
        kept = [(row["k"], row[name]) for row in ordered if row[name] is not None]
        if kept:
            lines += twin.plot(*zip(*kept, strict=True), "s-", color=colour, ms=4, label=f"{name} (right)")
    axes.set_xlabel("clusters k")
    axes.set_ylabel("inertia")
    twin.set_ylabel("silhouette; ARI between seeds")
    axes.legend(handles=lines, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3)
    return figure


def line(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, float, float] | None:
    """Slope, offset and R² of the line of least squares; None where ``x`` does not vary."""
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    slope, offset = np.polyfit(x, y, 1)
    total = float(((y - y.mean()) ** 2).sum())
    rest = float(((y - slope * x - offset) ** 2).sum())
    return float(slope), float(offset), 1 - rest / total if total else 1.0


def curves(rows: Sequence[Row], x: Callable[[Row], float], others: Sequence[str]) -> list[Curve]:
    """Rows that agree in all parameters but the one on the axis, named by those that vary."""
    varying = [name for name in others if len({row[name] for row in rows}) > 1]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in varying), []).append(row)
    found = []
    for key, members in groups.items():
        ordered = sorted(members, key=x)
        name = ", ".join(_say(each, value) for each, value in zip(varying, key, strict=True))
        found.append(Curve(name, [float(x(row)) for row in ordered], ordered))
    return found


def _twin(
    found: list[Curve], x_name: str, wanted: str, ticks: list[float], reference: list[tuple[float, float, float]]
) -> Figure:
    """Accuracy on the left axis, ARI on the right, a band of one standard deviation around each."""
    figure, left = _figure()
    right = _second(left)
    shown = _spread(found)
    metric = _metric(shown[0].rows, wanted)
    lines: list[Any] = []
    for curve, dash, marker in zip(shown, DASHES, MARKERS, strict=False):
        suffix = f" ({curve.name})" if curve.name else ""
        for axes, name, colour, text in ((left, metric, ACCURACY, "accuracy"), (right, "ari", ARI, "ARI")):
            mean, std = curve.band(name)
            axes.fill_between(curve.x, mean - std, mean + std, color=colour, alpha=0.16, lw=0)
            lines += axes.plot(curve.x, mean, dash, marker=marker, color=colour, ms=4.5, lw=1.7, label=text + suffix)
    if reference:
        x, accuracy, ari = (list(each) for each in zip(*reference, strict=True))
        note = "arXiv 2008.10312, ImageNet"
        for axes, values, colour, text in ((left, accuracy, ACCURACY, "accuracy"), (right, ari, ARI, "ARI")):
            style: dict[str, Any] = {"color": colour, "alpha": 0.55, "ms": 5, "lw": 0.8, "marker": "D", "mfc": "none"}
            lines += axes.plot(x, values, linestyle=(0, (1, 2)), label=f"{text}, {note}", **style)
        ticks = sorted({*ticks, *x})
    _ticks(left, ticks)
    left.set_xlabel(x_name)
    rule = "mixed" if "mixed" in metric else "one to one"
    where = "train" if metric.endswith("train") else "scored"
    left.set_ylabel(f"accuracy ({rule}, map of {where}), %", color=ACCURACY)
    right.set_ylabel("adjusted Rand index, %", color=ARI)
    for axes in (left, right):
        low, high = axes.get_ylim()
        axes.set_ylim(max(0.0, low - 0.05 * (high - low)), min(100.0, high + 0.05 * (high - low)))
    columns = 2 if len(lines) > 2 else len(lines)
    left.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    if len(found) > len(shown):
        figure.text(0.99, 0.005, f"{len(shown)} of {len(found)} curves shown", ha="right", fontsize=8, color=QUIET)
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.add_subplot()


def _name_marks(
    axes: Axes, x: Sequence[float], y: Sequence[float], names: Sequence[str], size: float, colour: str
) -> None:
    """A name to the right of each mark, or to the left where it would run into the next one."""
    for at, high, name in zip(x, y, names, strict=True):
        crowded = any(at < other < at + 8 and abs(high - above) < 3 for other, above in zip(x, y, strict=True))
        side: dict[str, Any] = {"xytext": (-7, -3), "ha": "right"} if crowded else {"xytext": (7, -3)}
        axes.annotate(name, (at, high), textcoords="offset points", fontsize=size, color=colour, **side)


def _second(axes: Axes) -> Axes:
    twin = axes.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    return twin


def _ticks(axes: Axes, ticks: list[float]) -> None:
    """A logarithmic axis with a tick at each value, as far as they have room."""
    axes.set_xscale("log", base=2)
    kept: list[float] = []
    room = np.log2(ticks[-1] / ticks[0]) / 14 if len(ticks) > 1 else 0.0
    for tick in ticks:
        if not kept or np.log2(tick / kept[-1]) >= room:
            kept.append(tick)
    axes.set_xticks(kept, [f"{tick:g}" for tick in kept])
    axes.set_xticks([], minor=True)


def _metric(rows: Sequence[Row], wanted: str) -> str:
    """The metric with the map learnt on train, or on the scored set where the train set has no labels."""
    return wanted if all(row[wanted] is not None for row in rows) else wanted.replace("_train", "_scored")


def _spread(found: list[Curve]) -> list[Curve]:
    if len(found) <= MOST_SERIES:
        return found
    return [found[round(at)] for at in np.linspace(0, len(found) - 1, MOST_SERIES)]


def _best_of_each(rows: Sequence[Row], key: str) -> list[Row]:
    """Of the rows that share ``key`` the one with the lowest number: no label has a say in it."""
    found: dict[Any, Row] = {}
    for row in rows:
        found.setdefault(row[key], row)
    return list(found.values())


def _say(name: str, value: Any) -> str:
    if name == "components":
        return "no PCA" if value is None else f"{value} components"
    if name in SWITCHES:
        return SWITCHES[name][bool(value)]
    return f"{name} = {value:g}" if isinstance(value, (int, float)) else str(value)
