"""`shoal compare`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from shoal.cli.flags import AsJson
from shoal.cli.output import columns_of, out, print_table
from shoal.client import Client
from shoal.errors import JsonValue

Json = dict[str, JsonValue]


def compare(
    a: Annotated[str, typer.Argument(help="Id of a clustering.")],
    b: Annotated[str, typer.Argument(help="Id of another clustering of the same images.")],
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of clusters of each list.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Show which clusters of one clustering were split, merged and changed in another."""
    with Client() as client:
        found = client.compare(a, b, limit=limit)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for line in summary_lines(found):
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    for table in (changed_table(found), parts_table(found, "split"), parts_table(found, "merged")):
        if table.row_count:
            out.print()
            print_table(table)


def summary_lines(found: Json) -> list[str]:
    """How many rows are compared, how well they agree, and how many clusters were kept."""
    a, b, limits = found["a"], found["b"], found["limits"]
    by = "" if found["matched_by"] == "row" else ", matched by image"
    lines = [
        f"{found['rows']:,} rows in both{by}: ARI {found['ari']:.4f}, AMI {found['ami']:.4f}, "
        f"NMI {found['nmi_arithmetic']:.4f}"
    ]
    lines += [
        f"{name} {each['clustering']}: {each['filled']:,} clusters, {each['kept']:,} kept (Jaccard from "
        f"{limits['kept']}), {each['dissolved']:,} dissolved (up to {limits['dissolved']})"
        for name, each in (("a", a), ("b", b))
    ]
    return lines


def changed_table(found: Json) -> Table:
    """The clusters of a that are least like any of b."""
    numbers = ("cluster", "rows", "best in b", "jaccard", "of a", "of b")
    table = columns_of(*numbers, "label", right=numbers, title="clusters of a that changed most")
    for each in found["clusters"]:
        if each["jaccard"] < 1:
            shares = (f"{100 * each[name]:.0f} %" for name in ("share", "share_of_best"))
            figures = (f"{each['size']:,}", str(each["best"]), f"{each['jaccard']:.3f}")
            table.add_row(str(each["cluster"]), *figures, *shares, each["label"] or "")
    return table


def parts_table(found: Json, which: str) -> Table:
    """The clusters that were split (of a) or merged (of b), with their parts in the other clustering."""
    ours, theirs = ("a", "b") if which == "split" else ("b", "a")
    what = "were split" if which == "split" else "are made of several"
    title = f"clusters of {ours} that {what}: {found[which]['total']:,}"
    table = columns_of("cluster", "rows", f"parts in {theirs}", right={"cluster", "rows"}, title=title)
    for each in found[which]["clusters"]:
        parts = ", ".join(f"{part['cluster']} ({100 * part['share']:.0f} %)" for part in each["parts"])
        table.add_row(str(each["cluster"]), f"{each['size']:,}", parts)
    return table
