"""Tables of sweeps: their points, the paper's figures, and what is done otherwise than there."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from rich.table import Table

from shoal import paper
from shoal.figures import number

Json = dict[str, Any]

SHOWN = (
    ("accuracy_hungarian_train", "ACC 1:1"),
    ("accuracy_mixed_train", "ACC mixed"),
    ("ari", "ARI"),
    ("ami", "AMI"),
    ("silhouette", "silhouette"),
    ("linear_probe", "linear"),
)


class Study(StrEnum):
    """What `reproduce` can do."""

    PCA = "pca-ablation"
    OVER = "over-clustering"
    MODELS = "models"


def sweep_table(rows: list[Json], title: str | None = None) -> Table:
    """A sweep's table with the columns that vary and the main metrics."""
    names = ("model", "scored", "normalize", "components", "whiten", "over", "k")
    varying = [name for name in names if len({row[name] for row in rows}) > 1] or ["k"]
    metrics = [(key, label) for key, label in SHOWN if any(row[key] is not None for row in rows)]
    table = Table(title=title, box=None, header_style="bold", title_justify="left")
    for name in [*varying, *(label for _, label in metrics)]:
        table.add_column(name, justify="left" if name in {"model", "scored"} else "right")
    for row in rows:
        facts = ["all" if row[name] is None and name == "components" else _cell(row[name]) for name in varying]
        table.add_row(*facts, *(number(row[key], row.get(f"{key}_std")) for key, _ in metrics))
    return table


def paper_table(study: Study) -> Table:
    """The paper's figures of a study."""
    table = Table(title="arXiv 2008.10312, ImageNet, %", box=None, header_style="bold", title_justify="left")
    if study is Study.MODELS:
        for name in ("model", "ACC", "ARI", "linear"):
            table.add_column(name)
        for each in paper.models():
            table.add_row(each.name, f"{each.accuracy:g}", f"{each.ari:g}", f"{each.probe:g}")
        return table
    points = paper.pca_ablation() if study is Study.PCA else paper.over_clustering()
    for name in ("components" if study is Study.PCA else "clusters / classes", "ACC", "ARI"):
        table.add_column(name, justify="right")
    for each in points:
        table.add_row(f"{each.x:g}", f"{each.accuracy:.2f}", f"{each.ari:.2f}")
    return table


def differences_table() -> Table:
    """What is done otherwise than in the paper, and why."""
    table = Table(
        title="Where this differs from the paper's protocol", box=None, header_style="bold", title_justify="left"
    )
    for name in ("", "paper", "here", "why"):
        table.add_column(name, overflow="fold")
    for each in paper.differences():
        table.add_row(each.what, each.paper, each.ours, each.why)
    return table


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
