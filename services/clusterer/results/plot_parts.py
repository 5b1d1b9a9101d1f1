"""Parts of the plots of a sweep: curves, axes, bands, captions, names of marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D, Bbox
from shoal.store.sweeps import Row

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

ACCURACY, ARI, QUIET, REFERENCE, INK = "#0b5fb0", "#c2570c", "#5d6873", "#8a949e", "#1c2126"
STYLE: dict[RcKeyType, object] = {
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
SIZE = (7.6, 4.8)
MOST_SERIES = 4
PARAMETERS = ("model", "normalize", "whiten", "components", "reduce", "method", "k")
SWITCHES = {"normalize": ("not normalised", "normalised"), "whiten": ("not whitened", "whitened")}
USUAL = {"reduce": None, "method": "kmeans"}
"""Values that no caption mentions."""
METHODS = {"kmeans": "k-means", "turtle": "TURTLE", "temi": "TEMI", "leiden": "Leiden", "hdbscan": "HDBSCAN"}

SIDES = (
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 7, "center", "bottom"),
    (0, -7, "center", "top"),
    (5, 5, "left", "bottom"),
    (5, -5, "left", "top"),
    (-5, 5, "right", "bottom"),
    (-5, -5, "right", "top"),
)
"""Where a name may stand beside its mark: offset in points, horizontal and vertical alignment."""
SHARE = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
"""Share of a text's extent that lies before the point it is aligned at."""


@dataclass(frozen=True)
class Curve:
    """Points that differ in one parameter only.

    Attributes
    ----------
    name
        The parameter values that distinguish it from the other curves.
    x
        Position of each point.
    rows
        The points' rows of the table.
    key
        The values of the parameters that differ between curves.
    """

    name: str
    x: list[float]
    rows: list[Row]
    key: tuple[Any, ...] = ()

    def band(self, metric: str, factor: float = 100.0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Mean and standard deviation, in percent unless ``factor`` is another; a missing deviation counts as 0."""
        mean = np.array([factor * row[metric] for row in self.rows])
        return mean, np.array([factor * (row[f"{metric}_std"] or 0.0) for row in self.rows])


def curves(rows: Sequence[Row], x: Callable[[Row], float], others: Sequence[str]) -> list[Curve]:
    """Rows that agree in all parameters but the one on the axis, named by those that vary."""
    others = [identity(rows) if name == "model" else name for name in others]
    varying = [name for name in others if len({row[name] for row in rows}) > 1]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in varying), []).append(row)
    found = []
    for key, members in groups.items():
        ordered = sorted(members, key=x)
        name = ", ".join(say(each, value) for each, value in zip(varying, key, strict=True))
        found.append(Curve(name, [float(x(row)) for row in ordered], ordered, key))
    return found


def identity(rows: Sequence[Row]) -> str:
    """The column that distinguishes the rows' embeddings: the model, or the id if two sets share a model."""
    names = {row["model"] for row in rows}
    return "embeddings" if len({row.get("embeddings") for row in rows}) > len(names) else "model"


def comparable(rows: Sequence[Row], x: Callable[[Row], float], others: Sequence[str]) -> tuple[list[Curve], int]:
    """Up to `MOST_SERIES` curves, and the number of all.

    Of more curves, the first and some of those that differ from it in one parameter only.
    """
    found = curves(rows, x, others)
    if len(found) <= MOST_SERIES:
        return found, len(found)
    first, *rest = found
    near = [curve for curve in rest if sum(a != b for a, b in zip(curve.key, first.key, strict=True)) == 1]
    places = np.linspace(0, len(near) - 1, min(MOST_SERIES - 1, len(near)))
    shown = [first, *(near[round(place)] for place in places)]
    # Named again: names leave out what all shown curves have in common.
    return curves([row for curve in shown for row in curve.rows], x, others), len(found)


def say(name: str, value: Any) -> str:
    """A parameter's value as text."""
    if name == "components":
        return "no PCA" if value is None else f"{value} components"
    if name == "reduce":
        return "not reduced" if value is None else str(value)
    if name == "method":
        return METHODS[value]
    if name in SWITCHES:
        return SWITCHES[name][bool(value)]
    return f"{name} = {value:g}" if isinstance(value, (int, float)) else str(value)


def canvas() -> tuple[Figure, Axes]:
    """An empty plot."""
    figure = Figure(figsize=SIZE, layout="constrained")
    return figure, figure.add_subplot()


def second(axes: Axes) -> Axes:
    """A further axis on the right."""
    twin = axes.twinx()
    twin.grid(visible=False)
    twin.spines["right"].set_visible(True)
    return twin


def caption(figure: Figure, rows: Sequence[Row], left_out: str = "") -> None:
    """Write below the plot what all its points have in common, and the number of seeds of each."""
    same = [name for name in PARAMETERS if len({row[name] for row in rows}) == 1]
    shared = [say(name, rows[0][name]) for name in same if rows[0][name] != USUAL.get(name, "")]
    if len({row["scored"] for row in rows}) == 1:
        shared.insert(1 if len({row["model"] for row in rows}) == 1 else 0, f"scored on {rows[0]['scored']}")
    seeds = {row["seeds"] for row in rows}
    if seeds != {1}:
        shared.append(f"{'–'.join(str(each) for each in sorted(seeds))} seeds, ± one standard deviation")
    figure.supxlabel(", ".join([*shared, *([left_out] if left_out else [])]), fontsize=7.5, color=QUIET)


def fill(axes: Axes, x: Sequence[float], mean: Any, std: Any, colour: str, *, within: tuple[float, float]) -> None:
    """A band of one standard deviation, clipped to the possible values."""
    low, high = np.clip(mean - std, *within), np.clip(mean + std, *within)
    axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)


def with_margin(axes: Axes, within: tuple[float, float]) -> None:
    """Add a margin to the vertical axis, within the possible values."""
    low, high = axes.get_ylim()
    room = 0.05 * (high - low)
    axes.set_ylim(max(within[0], low - room), min(within[1], high + room))


def logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each value that has room."""
    axes.set_xscale("log", base=2)
    kept: list[float] = []
    room = np.log2(ticks[-1] / ticks[0]) / 14 if len(ticks) > 1 else 0.0
    for tick in ticks:
        if not kept or np.log2(tick / kept[-1]) >= room:
            kept.append(tick)
    axes.set_xticks(kept, [f"{tick:g}" for tick in kept])
    axes.set_xticks([], minor=True)


def whole_numbers(axes: Axes) -> None:
    """Ticks at whole numbers only."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


@dataclass(frozen=True)
class Mark:
    """A point with a name: where it is, and how its name is written."""

    x: float
    y: float
    name: str
    size: float
    colour: str


def name_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """Write each name on the first side of its mark where it overlaps no mark, name or edge, or else the least.

    Set the limits of the axes before the call: the free space depends on them.
    """
    points = [axes.transData.transform((mark.x, mark.y)) * 72 / axes.figure.dpi for mark in marks]
    frame = axes.get_window_extent().transformed(Affine2D().scale(72 / axes.figure.dpi))
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for mark, (x, y) in zip(marks, points, strict=True):
        width, height = 0.58 * mark.size * len(mark.name), 1.2 * mark.size
        boxes = [
            Bbox.from_bounds(x + dx - SHARE[ha] * width, y + dy - SHARE[va] * height, width, height)
            for dx, dy, ha, va in SIDES
        ]
        hidden = [_outside(box, frame) + sum(_overlap(box, other) for other in taken) for box in boxes]
        best = int(np.argmin(hidden))
        taken.append(boxes[best])
        dx, dy, ha, va = SIDES[best]
        axes.annotate(
            mark.name,
            (mark.x, mark.y),
            (dx, dy),
            textcoords="offset points",
            ha=ha,
            va=va,
            fontsize=mark.size,
            color=mark.colour,
        )


def _overlap(a: Bbox, b: Bbox) -> float:
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else float(both.width * both.height)


def _outside(box: Bbox, frame: Bbox) -> float:
    return float(box.height * (max(0.0, frame.x0 - box.x0) + max(0.0, box.x1 - frame.x1)))
