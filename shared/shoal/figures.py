"""A clustering's metrics as a table: mean ± standard deviation over the seeds, beside the chance level."""

from __future__ import annotations

from typing import Any

from shoal import notebook

SHOWN_METRICS = (
    ("accuracy", "Accuracy, Hungarian"),
    ("accuracy_majority", "Accuracy, majority"),
    ("nmi_arithmetic", "NMI (arithmetic mean)"),
    ("ami", "AMI"),
    ("ari", "ARI"),
    ("v_measure", "V-measure"),
    ("fowlkes_mallows", "Fowlkes-Mallows"),
    ("purity", "Purity"),
    ("inertia", "Inertia"),
    ("size_imbalance", "Size imbalance"),
    ("empty_clusters", "Empty clusters"),
)


class Metrics(dict[str, Any]):
    """What `GET /clusterings/{id}/metrics` answers: a dict that prints as a table of its main figures."""

    def __str__(self) -> str:
        """The table, a line a metric."""
        header, *rows = metrics_rows(self)
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in [header, *rows])

    def _repr_html_(self) -> str:
        header, *rows = metrics_rows(self)
        return notebook.table(header, rows)


def metrics_rows(metrics: dict[str, Any]) -> list[list[str]]:
    """A header, then each metric that has a value: its name, and of each scored set the figure and its chance level."""
    sets = metrics["scored"]
    rows = [["metric", *(cell for name in sets for cell in (name, "chance"))]]
    for key, label in SHOWN_METRICS:
        cells = [cell for scored in sets.values() for cell in _cells(scored, key)]
        if any(cells):
            rows.append([label, *cells])
    return rows


def metric_of(values: dict[str, Any], key: str) -> float | None:
    """A metric of metrics.json by the name of its row in our tables."""
    if key in {"accuracy", "accuracy_majority"}:
        rule = "majority" if key == "accuracy_majority" else "hungarian"
        accuracy = (values.get("accuracy") or {}).get(rule) or {}
        found = accuracy.get("train")
        return float(found) if found is not None else accuracy.get("scored")
    return values.get(key)


def number(value: float | None, std: float | None = None) -> str:
    """A number with its spread; empty without a value."""
    if value is None:
        return ""
    text = f"{value:,.3f}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{text} ± {std:.3f}" if std is not None and abs(value) < 1000 else text


def _cells(scored: dict[str, Any], key: str) -> tuple[str, str]:
    mean, std = metric_of(scored["mean"], key), metric_of(scored["std"], key)
    chance = (scored["mean"].get("chance") or {}).get({"nmi_arithmetic": "nmi"}.get(key, key))
    if isinstance(chance, dict):
        chance = None
    return number(mean, std), number(chance)
