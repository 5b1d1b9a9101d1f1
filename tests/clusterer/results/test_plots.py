"""What a sweep's plots draw: lines of least squares, curves that can be compared, names that do not overlap."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from clusterer.results import plot_parts
from clusterer.results.plot_parts import comparable, curves
from clusterer.results.plots import line
from matplotlib.backends.backend_agg import FigureCanvasAgg


def test_the_line_of_least_squares_and_its_share_of_variance() -> None:
    assert line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])) == pytest.approx((2.0, 1.0, 1.0))
    fit = line(np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 0.0]))
    assert fit is not None
    assert fit[2] == pytest.approx(0.0)
    assert line(np.array([1.0, 1.0]), np.array([1.0, 2.0])) is None


def test_curves_are_named_by_what_differs() -> None:
    rows = [{"k": k, "whiten": white, "model": "m"} for k in (4, 2) for white in (True, False)]
    found = curves(rows, lambda row: row["k"], ("model", "whiten"))
    assert [(curve.name, curve.x) for curve in found] == [("whitened", [2.0, 4.0]), ("not whitened", [2.0, 4.0])]
    rows = [{"k": k, "method": method, "model": "m"} for k in (2, 4) for method in ("kmeans", "turtle")]
    assert [curve.name for curve in curves(rows, lambda row: row["k"], ("model", "method"))] == ["k-means", "TURTLE"]


def test_of_many_curves_those_that_differ_in_one_thing_are_shown() -> None:
    rows = [
        {"x": x, "k": k, "whiten": white, "normalize": norm, "model": "m"}
        for x in (1, 2)
        for norm in (True, False)
        for white in (False, True)
        for k in (6, 9)
    ]
    shown, total = comparable(rows, lambda row: row["x"], ("model", "normalize", "whiten", "k"))
    assert total == 8
    assert [curve.name for curve in shown] == [
        "normalised, not whitened, k = 6",
        "normalised, not whitened, k = 9",
        "normalised, whitened, k = 6",
        "not normalised, not whitened, k = 6",
    ]
    # With one parameter alone all are comparable, and what they share is in no name.
    rows = [{"x": 1, "k": k, "whiten": False, "normalize": True, "model": "m"} for k in range(2, 12)]
    shown, total = comparable(rows, lambda row: row["x"], ("model", "normalize", "whiten", "k"))
    assert (total, [curve.name for curve in shown]) == (10, ["k = 2", "k = 3", "k = 7", "k = 11"])


def test_names_of_marks_overlap_neither_each_other_nor_the_edge() -> None:
    figure, axes = plot_parts.canvas()
    places = [(66.6, 23.3), (71.1, 23.1), (71.7, 22.4), (75.2, 38.6), (77.2, 39.1), (86.5, 72.0)]
    axes.plot(*zip(*places, strict=True), "o")
    figure.draw_without_rendering()
    plot_parts.name_marks(axes, [plot_parts.Mark(x, y, f"a model named {x}-{y}", 8.5, "black") for x, y in places])
    FigureCanvasAgg(figure)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == len(places)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)
