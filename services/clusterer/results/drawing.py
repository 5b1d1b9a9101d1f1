"""What the plots of a sweep are made of: curves, axes, bands, captions."""

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
PARAMETERS = ("model", "normalize", "whiten", "components", "k")
SWITCHES = {"normalize": ("not normalised", "normalised"), "whiten": ("not whitened", "whitened")}


@dataclass(frozen=True)
class Curve:
    """Points that differ in one parameter only.

    Attributes
    ----------
    name
        What tells it from the other curves.
    x
        Of each point.
    rows
        The points' rows of the table.
    key
        The values of the parameters that tell the curves apart.
    """

    name: str
    x: list[float]
    rows: list[Row]
    key: tuple[Any, ...] = ()

    def band(self, metric: str, factor: float = 100.0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Mean and standard deviation, in percent unless ``factor`` is another; no deviation counts as none."""
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
    """What tells the rows' embeddings apart: the model's name, or where two sets are of one model their id."""
    names = {row["model"] for row in rows}
    return "embeddings" if len({row.get("embeddings") for row in rows}) > len(names) else "model"


def comparable(rows: Sequence[Row], x: Callable[[Row], float], others: Sequence[str]) -> tuple[list[Curve], int]:
    """As many curves as a plot can hold, and how many there are.

    Where there are more, it is the first, and of the others some of those that differ from it in one thing only.
    """
    found = curves(rows, x, others)
    if len(found) <= MOST_SERIES:
        return found, len(found)
    first, *rest = found
    near = [curve for curve in rest if sum(a != b for a, b in zip(curve.key, first.key, strict=True)) == 1]
    places = np.linspace(0, len(near) - 1, min(MOST_SERIES - 1, len(near)))
    shown = [first, *(near[round(place)] for place in places)]
    # Named again: what all that are shown have in common tells none of them apart.
    return curves([row for curve in shown for row in curve.rows], x, others), len(found)


def say(name: str, value: Any) -> str:
    """A parameter's value as a reader of a plot knows it."""
    if name == "components":
        return "no PCA" if value is None else f"{value} components"
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
    """Say below the plot what all its points have in common, and how many seeds are behind each."""
    shared = [say(name, rows[0][name]) for name in PARAMETERS if len({row[name] for row in rows}) == 1]
    if len({row["scored"] for row in rows}) == 1:
        shared.insert(1 if len({row["model"] for row in rows}) == 1 else 0, f"scored on {rows[0]['scored']}")
    seeds = {row["seeds"] for row in rows}
    if seeds != {1}:
        shared.append(f"{'–'.join(str(each) for each in sorted(seeds))} seeds, ± one standard deviation")
    figure.supxlabel(", ".join([*shared, *([left_out] if left_out else [])]), fontsize=7.5, color=QUIET)


def fill(axes: Axes, x: Sequence[float], mean: Any, std: Any, colour: str, *, most: float = np.inf) -> None:
    """A band of one standard deviation, as far as values can go."""
    low, high = np.clip(mean - std, 0.0, most), np.clip(mean + std, 0.0, most)
    axes.fill_between(x, low, high, color=colour, alpha=0.16, lw=0)


def within_percent(axes: Axes) -> None:
    """Room around what is drawn, but no axis that goes beyond 0 or 100: there is nothing there."""
    low, high = axes.get_ylim()
    room = 0.05 * (high - low)
    axes.set_ylim(max(0.0, low - room), min(100.0, high + room))


def logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    """A logarithmic axis with a tick at each value, as far as they have room."""
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
    """A point with a name: where it is, and how the name is written."""

    x: float
    y: float
    name: str
    size: float
    colour: str


def name_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """Write each name beside its mark, on the first side where it runs into no mark, no other name and no edge.

    Call it when the limits of the axes are set: what has room depends on them.
    """
    points = [axes.transData.transform((mark.x, mark.y)) * 72 / axes.figure.dpi for mark in marks]
    frame = axes.get_window_extent().transformed(Affine2D().scale(72 / axes.figure.dpi))
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in points]
    for mark, (x, y) in zip(marks, points, strict=True):
        width, height = 0.58 * mark.size * len(mark.name), 1.2 * mark.size
        # Right, left, above, below; then the corners.
        sides = [(7, -height / 2), (-7 - width, -height / 2), (-width / 2, 7), (-width / 2, -7 - height)]
        sides += [(5, 5), (5, -5 - height), (-5 - width, 5), (-5 - width, -5 - height)]
        boxes = [Bbox.from_bounds(x + dx, y + dy, width, height) for dx, dy in sides]
        free = [box for box in boxes if frame.x0 <= box.x0 and box.x1 <= frame.x1 and not box.count_overlaps(taken)]
        chosen = (free or boxes)[0]
        taken.append(chosen)
        side, edge = ("right", chosen.x1) if chosen.x1 <= x else ("left", chosen.x0)
        if chosen.x0 < x < chosen.x1:
            side, edge = "center", x
        axes.annotate(
            mark.name,
            (mark.x, mark.y),
            (edge - x, (chosen.y0 + chosen.y1) / 2 - y),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=mark.size,
            color=mark.colour,
        )
