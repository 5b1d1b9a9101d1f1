"""`shoal names`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.flags import AsJson, Flags, errors_in_flags
from shoal.cli.output import columns_of, out, print_table
from shoal.client import Client
from shoal.client.vectors import Json

NAMES: Flags = {"clustering_id": "CLUSTERING", "entry": "--entry"}


def _pairs(given: list[str] | None, sign: str, flag: str, example: str) -> list[tuple[int, str]]:
    """The number before ``sign`` and the text after it, of each value of a flag."""
    found = []
    for text in given or []:
        number, there, rest = text.partition(sign)
        if not there or not (number.isascii() and number.isdecimal()) or not rest:
            raise typer.BadParameter(f"{text!r} is not valid: write {flag} {example}.", param_hint=flag)
        found.append((int(number), rest))
    return found


def _numbers(given: list[str] | None, flag: str, example: str) -> list[tuple[int, int]]:
    found = []
    for number, rest in _pairs(given, ":", flag, example):
        if not (rest.isascii() and rest.isdecimal()):
            raise typer.BadParameter(f"'{number}:{rest}' is not valid: write {flag} {example}.", param_hint=flag)
        found.append((number, int(rest)))
    return found


def names(
    clustering: Annotated[str, typer.Argument(help="Id of the clustering.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Name a cluster; repeatable.", metavar="CLUSTER=NAME")
    ] = None,
    flag: Annotated[
        list[str] | None,
        typer.Option(help="Flag a cluster, as `review` or `ignore`; repeatable.", metavar="CLUSTER=FLAG"),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(help="Make a cluster part of another one, as in 4:3; repeatable.", metavar="CLUSTER:INTO"),
    ] = None,
    clear: Annotated[
        list[int] | None,
        typer.Option(
            help="Remove the name, the flag and the merge of a cluster; repeatable.", metavar="CLUSTER", min=0
        ),
    ] = None,
    move: Annotated[
        list[str] | None, typer.Option(help="Move an image to a cluster; repeatable.", metavar="ROW:CLUSTER")
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="Embeddings that --move counts rows of; the first that were scored by default.")
    ] = None,
    suggest: Annotated[
        Path | None,
        typer.Option(
            help="File with words, one a line: print those that fit each cluster best. For embeddings of a model that "
            "embeds texts, such as `open_clip:ViT-B-32`.",
            metavar="FILE",
        ),
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="With --suggest: name each cluster without a name after its best word.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take back the last change of names or moves.")] = False,
    entry: Annotated[int | None, typer.Option(help="With --undo: number of the change to take back.", min=1)] = None,
    history: Annotated[bool, typer.Option("--history", help="List who changed what, and when.")] = False,
    as_json: AsJson = False,
) -> None:
    """Name, flag and merge clusters, move images between them, and print the names."""
    changes = _changes(set_, flag, merge, clear)
    moves = dict(_numbers(move, "--move", "17:3"))
    if undo and (changes or moves):
        raise typer.BadParameter("it stands alone: it takes back the last change.", param_hint="--undo")
    if entry is not None and not undo:
        raise typer.BadParameter("give it with --undo.", param_hint="--entry")
    if accept and suggest is None:
        raise typer.BadParameter("give it with --suggest.", param_hint="--accept")
    with errors_in_flags(NAMES), Client() as client:
        if suggest is not None:
            found = client.suggest_names(clustering, _words(suggest), embeddings=embeddings)
            if not accept:
                _show_suggestions(found, as_json)
                return
            changes = _accepted(found, client.names(clustering).clusters, changes)
        if undo:
            client.undo_names(clustering, entry=entry)
        if changes:
            client.name(clustering, changes)
        if moves:
            client.move(clustering, dict(moves), embeddings=embeddings)
        if history:
            _show_history(client.names_history(clustering), as_json)
        else:
            _show(client.names(clustering).clusters, client.moves(clustering, embeddings=embeddings), as_json)


def _words(file: Path) -> list[str]:
    """The lines of a file, without those that are empty."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}.", param_hint="--suggest") from None
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not words:
        raise typer.BadParameter(f"{file} has no words: write one a line.", param_hint="--suggest")
    return words


def _accepted(
    found: list[Json], named: Mapping[int, Json], changes: Mapping[int, Json | None]
) -> dict[int, Json | None]:
    """``changes``, and the best word as the name of each cluster that has none and gets none."""
    accepted = {each["cluster"]: each["suggestions"][0]["name"] for each in found}
    names: dict[int, Json | None] = {
        cluster: {"name": word, **(changes.get(cluster) or {})}
        for cluster, word in accepted.items()
        if not named.get(cluster, {}).get("name")
    }
    return {**changes, **names}


def _show_suggestions(found: list[Json], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    table = columns_of("cluster", "best word (share of its images)", "other words", right={"cluster"})
    for each in found:
        words = [f"{one['name']} ({one['votes']:.0%})" for one in each["suggestions"]]
        table.add_row(str(each["cluster"]), words[0], ", ".join(words[1:]))
    print_table(table)


def _changes(
    set_: list[str] | None, flag: list[str] | None, merge: list[str] | None, clear: list[int] | None
) -> dict[int, Json | None]:
    """The fields of each cluster that flags set, on top of those that ``--clear`` removes."""
    changes: dict[int, Json | None] = dict.fromkeys(clear or [])
    values: list[tuple[str, int, object]] = [("name", *each) for each in _pairs(set_, "=", "--set", "3=shoes")]
    values += [("flag", *each) for each in _pairs(flag, "=", "--flag", "3=review")]
    values += [("merged_into", *each) for each in _numbers(merge, "--merge", "4:3")]
    for field, cluster, value in values:
        cleared = dict.fromkeys(("name", "flag", "merged_into")) if cluster in changes else {}
        changes[cluster] = {**(changes.get(cluster) or cleared), field: value}
    return changes


def _show(clusters: dict[int, Json], moves: dict[int, int], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"names": clusters, "moves": moves}, indent=2))
        return
    table = columns_of("cluster", "name", "flag", "merged into", right={"cluster", "merged into"})
    for cluster, said in clusters.items():
        into = said.get("merged_into")
        table.add_row(str(cluster), said.get("name") or "", said.get("flag") or "", "" if into is None else str(into))
    print_table(table)
    if moves:
        count = f"{len(moves)} image{'' if len(moves) == 1 else 's'}"
        out.print(f"{count} moved to another cluster.", highlight=False, markup=False)


def _show_history(entries: list[Json], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(entries, indent=2))
        return
    table = columns_of("entry", "at", "author", "change", right={"entry"})
    for each in entries:
        what = [f"undo of {each['undoes']}"] if each["undoes"] is not None else []
        what += [f"{c['cluster']}.{c['field']}: {_said(c['before'])} → {_said(c['after'])}" for c in each["clusters"]]
        what += [f"row {m['row']}: {_said(m['before'])} → {_said(m['after'])}" for m in each["moves"]]
        at = str(each["at"])[:19].replace("T", " ")
        table.add_row(str(each["entry"]), at, each["author"] or "", "; ".join(what))
    print_table(table)


def _said(value: object) -> str:
    return "nothing" if value is None else str(value)
