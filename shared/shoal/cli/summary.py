"""The summary of `shoal run`: groups, quality, skipped files, results, next commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from shoal.cli.flags import EXTRACT, text_in_flags
from shoal.figures import metric_of, number
from shoal.schemas.graph import NOISE
from shoal.store import Store

Json = dict[str, Any]
SHOWN_GROUPS = 5
FEWEST_CHOICE = 2
"""With this many images there is only one possible number of groups."""
SHOWN_REASONS = 20

LABELLED = (
    ("accuracy", "Accuracy, Hungarian", "share of images in the group matched to their class, one group per class"),
    ("nmi_arithmetic", "NMI (arithmetic mean)", "information that groups share with classes: 0 none, 1 all"),
    ("ari", "ARI", "agreement of groups and classes: 0 chance, 1 perfect"),
    ("purity", "Purity", "share of images in the largest class of their group; grows with the number of groups"),
)
UNLABELLED = (
    ("silhouette", "Silhouette", "separation of the groups: 1 far apart, 0 touching, below 0 mixed"),
    ("davies_bouldin", "Davies-Bouldin", "spread of the groups relative to their distance: lower is better"),
)
STABILITY = ("Stability", "agreement of the groups of two random starts: 0 chance, 1 perfect")


@dataclass(frozen=True)
class RunSummary:
    """The results of a run.

    Attributes
    ----------
    folder
        The images, as the user knows them.
    embeddings, clustering
        The ids.
    extraction
        Result of the extract job.
    reused
        Whether the clustering existed before.
    files
        Report and contact sheet, by name, in order.
    seconds
        Duration of the command.
    again
        The command with its arguments, for hints.
    store_flag
        The flag that other commands need to find the store; empty if none.
    notes
        How the number of groups was chosen.
    """

    folder: Path
    embeddings: str
    clustering: str
    extraction: Mapping[str, Any]
    reused: bool
    files: Mapping[str, Path]
    seconds: str
    again: str
    store_flag: str = ""
    notes: tuple[str, ...] = ()


def print_summary(console: Console, store: Store, made: RunSummary) -> None:
    """Print the summary."""
    clustering = store.clustering(made.clustering)
    rows = int(clustering.spec["n"])
    _say(console, "")
    clusters = clustering.clusters(made.embeddings)
    filled = sum(size > 0 for size in clusters.column("size").to_pylist()[: clustering.k])
    empty = f" ({clustering.k - filled:,} of {clustering.k:,} are empty)" if filled < clustering.k else ""
    _say(console, f"{made.folder.name}: {_count(rows, 'image')} in {_count(filled, 'group')}{empty}", style="bold")
    source = made.extraction.get("source") or {}
    # A user of `shoal run` has named a folder and flags, not fields.
    recognised = text_in_flags(str(source.get("message") or "").replace("`path`", f"`{made.folder.name}`"), EXTRACT)
    # With a single class, label metrics mean nothing.
    labelled = int(clustering.spec.get("train_classes") or 0) > 1
    for note in (recognised, _partly(clusters, rows) if labelled else "", *made.notes, *reasons(clustering.spec)):
        if note:
            _say(console, note)
    console.print(_groups(store, clusters, made.embeddings, labelled=labelled))
    _quality(console, clustering.metrics()["scored"][made.embeddings], labelled=labelled)
    if clustering.spec.get("reduce"):
        _say(console, DRAWN_TOGETHER.format(method=clustering.spec["reduce"]["method"]))
    _left_out(console, store, made)
    _places(console, made, rows, clustering.k)


DRAWN_TOGETHER = (
    "Silhouette and Davies-Bouldin are those after `{method}`, which draws like images together: compare them with "
    "`--reduce {method}` alone."
)


def reasons(spec: Json) -> Iterator[str]:
    """Why the clustering has its number of groups, and how its rows were changed, where it chose."""
    for name in ("chosen", "picked"):
        if spec.get(name):
            yield str(spec[name]["why"])


def _partly(clusters: pa.Table, rows: int) -> str:
    """How many images have a class, where not all have."""
    labelled = sum(clusters.column("labelled").to_pylist())
    if labelled >= rows:
        return ""
    return f"{labelled:,} of {_count(rows, 'image')} have a class: accuracy, NMI, ARI and purity count these only."


def _say(console: Console, text: str, style: str = "") -> None:
    # Soft: a path or an id that is cut in two cannot be copied.
    console.print(text, markup=False, highlight=False, soft_wrap=True, style=style)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _grid(*widths: str) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for justify in widths:
        table.add_column(justify="right" if justify == "r" else "left", overflow="fold")
    return table


def _groups(store: Store, clusters: pa.Table, embeddings_id: str, *, labelled: bool) -> Table:
    """The largest groups: how many images, what they are or, without labels, the most typical one."""
    filled = sorted(
        (row for row in clusters.to_pylist() if row["size"]), key=lambda row: (-row["size"], row["cluster"])
    )
    shown, rest = filled[:SHOWN_GROUPS], filled[SHOWN_GROUPS:]
    typical = _paths(store, embeddings_id, [row["nearest"][0] for row in shown if row["nearest"]])
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("group", justify="right")
    table.add_column("images", justify="right")
    if labelled:
        table.add_column("mostly", overflow="fold")
    table.add_column("the most typical image", overflow="fold")
    for row in shown:
        of = f" of {row['labelled']:,}" if row["labelled"] < row["size"] else ""
        mostly = f"{row['majority']} ({row['purity']:.0%}{of})" if row["majority"] is not None else ""
        path = typical.get(row["nearest"][0], "") if row["nearest"] else ""
        number = "noise" if row["cluster"] == NOISE else str(row["cluster"])
        table.add_row(number, f"{row['size']:,}", *([_plain(mostly)] if labelled else []), _plain(path))
    if rest:
        sizes = [row["size"] for row in rest]
        span = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
        more = f"{_count(len(rest), 'smaller group')}" if len(rest) > 1 else "1 smaller group"
        table.add_row("…", span, *([""] if labelled else []), more)
    return table


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _paths(store: Store, embeddings_id: str, rows: list[int]) -> dict[int, str]:
    if not rows:
        return {}
    column = store.embeddings(embeddings_id).metadata(["image_path"]).column("image_path")
    return {row: column[row].as_py() for row in rows}


def _quality(console: Console, scored: Json, *, labelled: bool) -> None:
    table = _grid("l", "r", "l", "l")
    mean, std = scored["mean"], scored["std"]
    shown = (*LABELLED, *UNLABELLED) if labelled else UNLABELLED
    for key, name, meaning in shown:
        value = metric_of(mean, key)
        if value is None:
            continue
        chance = (mean.get("chance") or {}).get({"nmi_arithmetic": "nmi"}.get(key, key))
        beside = f"chance {chance:.3f}" if isinstance(chance, int | float) else ""
        table.add_row(name, number(value, metric_of(std, key)), beside, meaning)
    stability = (scored.get("stability") or {}).get("ari_mean")
    if stability is not None:
        table.add_row(STABILITY[0], number(stability), "", STABILITY[1])
    if mean.get("empty_clusters"):
        table.add_row(
            "Empty groups", f"{mean['empty_clusters']:g}", "", "groups without images: use a smaller number of groups"
        )
    if table.row_count:
        _say(console, "\nHow good the groups are", style="bold")
        console.print(table)


def _left_out(console: Console, store: Store, made: RunSummary) -> None:
    failed = list(_failures(store, made))
    if failed:
        total = sum(count for _, count, _ in failed)
        _say(console, f"\n{_count(total, 'image')} could not be read", style="bold")
        _reasons(console, failed)
    skipped = list(_skipped(made.extraction.get("not_taken") or ()))
    if skipped:
        _say(console, f"\n{left_out(made.extraction)} skipped", style="bold")
        _reasons(console, skipped)
    hidden = int((made.extraction.get("source") or {}).get("system_entries") or 0)
    if hidden:
        what = "1 hidden or system file or folder was" if hidden == 1 else f"{hidden:,} hidden or system entries were"
        _say(console, f"{what} skipped: names that start with a dot, `@eaDir`, `__MACOSX`, `Thumbs.db` and the like.")


def _failures(store: Store, made: RunSummary) -> Iterator[tuple[str, int, str]]:
    """Code, count, and an example with its message."""
    told = made.extraction.get("failed_by_code")
    if told is not None:
        for each in told:
            first = (each.get("examples") or [{}])[0]
            yield each["code"], int(each["count"]), _example(first.get("image_path"), first.get("message"))
        return
    by_code: dict[str, list[Json]] = {}
    for row in store.embeddings(made.embeddings).errors().to_pylist():
        by_code.setdefault(row["code"], []).append(row)
    for code, rows in sorted(by_code.items(), key=lambda item: -len(item[1])):
        yield code, len(rows), _example(rows[0]["image_path"], rows[0]["message"])


def _example(path: str | None, message: str | None) -> str:
    return f"{path}: {message}" if path and message else path or message or ""


def left_out(extraction: Mapping[str, Any]) -> str:
    """How many files, folders and links were skipped: `3 files, 1 link`; empty if none."""
    counts = {"file": 0, "folder": 0, "link": 0}
    for each in extraction.get("not_taken") or ():
        kind = str(each.get("reason"))
        counts["link" if kind.startswith("link_") else "folder" if "folder" in kind else "file"] += int(each["count"])
    return ", ".join(_count(n, noun) for noun, n in counts.items() if n)


def _skipped(groups: Iterable[Json]) -> Iterator[tuple[str, int, str]]:
    """Reasons, the most files first; what is no image at all in one, whatever its extensions."""
    groups = list(groups)
    others = [each for each in groups if each.get("reason") == "not_an_image"]
    if len(others) < 2:
        yield from map(_reason, groups)
        return
    named = ", ".join(f"{each.get('suffix') or 'no extension'} {each['count']:,}" for each in others)
    whole = sum(int(each["count"]) for each in others)
    rows = [_reason(each) for each in groups if each not in others]
    rows.append(("not_an_image", whole, f"{whole:,} files are not images: {named}."))
    yield from sorted(rows, key=lambda row: -row[1])


def _reason(each: Json) -> tuple[str, int, str]:
    examples = ", ".join(str(example) for example in (each.get("examples") or [])[:1])
    told = str(each.get("message") or "")
    name = str(each.get("suffix") or each.get("reason"))
    return name, int(each["count"]), f"{told} Such as {examples}" if told and examples else told or examples


def _reasons(console: Console, reasons: Iterable[tuple[str, int, str]]) -> None:
    reasons = list(reasons)
    table = _grid("r", "l", "l")
    for name, count, example in reasons[:SHOWN_REASONS]:
        table.add_row(f"{count:,}", _plain(name), _plain(example))
    console.print(table)
    if len(reasons) > SHOWN_REASONS:
        _say(console, f"… and {_count(len(reasons) - SHOWN_REASONS, 'other reason')}")


def _other(clusters: int, rows: int) -> int:
    """Another possible number of groups."""
    return next(k for k in (20, 50, 10, 5, 3, 2) if k != clusters and k <= rows)


def _places(console: Console, made: RunSummary, rows: int, clusters: int) -> None:
    kept = sum(int(made.extraction.get(name) or 0) for name in ("resumed_rows", "reused_rows"))
    of = f"reused {min(kept, rows):,} of {rows:,} embeddings" if kept else f"{rows:,} new embeddings"
    _say(console, "\nResults", style="bold")
    width = max(map(len, ("contact sheet", "embeddings", *made.files)))
    for name, path in made.files.items():
        _say(console, f"{name:<{width}}  {path}")
    _say(console, f"{'embeddings':<{width}}  {made.embeddings}  ({of})")
    _say(console, f"{'clustering':<{width}}  {made.clustering}{'  (reused)' if made.reused else ''}")
    _say(console, f"{'time':<{width}}  {made.seconds}")
    _say(console, "\nNext", style="bold")
    _say(console, f"Open the report in a browser: {next(iter(made.files.values()))}")
    hints = [
        (f"shoal show {made.clustering}{made.store_flag}", "all metrics"),
    ]
    if rows > FEWEST_CHOICE:
        hints.append((f"{made.again} -k {_other(clusters, rows)}", "another number of groups"))
    if made.reused:
        hints.append((f"{made.again} --again", "compute the clustering again"))
    width = max(len(command) for command, _ in hints)
    for command, what in hints:
        _say(console, f"{command:<{width}}   {what}")


def quoted(*words: str | Path) -> str:
    """Words of a command as one types them."""
    return " ".join(shlex.quote(str(word)) for word in words)
