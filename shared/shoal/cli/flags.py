"""Flags that commands share, and the services' errors put in terms of flags instead of fields."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, overload

import typer

from shoal.cli.execution import EXECUTION
from shoal.cli.graph import GRAPH
from shoal.cli.heads import HEADS
from shoal.errors import ShoalError, by_code
from shoal.schemas import MAX_CLUSTERS

Flags = Mapping[str, str]
"""Field of a request, with dots, to the flag or argument of the command."""

EXTRACT: Flags = {
    "images.path": "PATH",
    "images.labels": "--labels",
    "images.split": "--split",
    "images.format": "--format",
    "images.include": "--include",
    "images.exclude": "--exclude",
    "images.limit": "--limit",
    "model": "--model",
    "name": "--name",
    "batch_size": "--batch-size",
    "engine": "--engine",
    "dtype": "--dtype",
    "shard_rows": "--shard-rows",
    "max_failed_fraction": "--max-failed-fraction",
    "reuse": "--no-reuse",
    "callback_url": "--callback-url",
    "workers": "--workers",
}
IMPORT: Flags = {
    "path": "PATH",
    "name": "--name",
    "labels": "--labels",
    "split": "--split",
    "key": "--key",
    "label_key": "--label-key",
    "path_key": "--path-key",
}
CLUSTER: Flags = {
    "embeddings": "EMBEDDINGS",
    "embeddings.train": "EMBEDDINGS",
    "embeddings.score": "--score",
    "where": "--where-…",
    "where.labels": "--where-label",
    "where.paths": "--where-path",
    "where.clusters": "--where-clusters",
    "where.not_duplicates_of": "--where-no-duplicates",
    "clusters": "--clusters",
    "over": "--over",
    "pca": "--pca",
    "pca.components": "--pca",
    "pca.whiten": "--whiten",
    "normalize": "--normalize",
    "reduce": "--reduce",
    "kmeans.engine": "--engine",
    "kmeans.iterations": "--iterations",
    "kmeans.restarts": "--restarts",
    "kmeans.spherical": "--spherical",
    "kmeans.balanced": "--balanced",
    "kmeans.levels": "--level",
    "seed": "--seed",
    "seeds": "--seed",
    "label_map": "--label-map",
    "memory_limit": "--memory-limit",
    "callback_url": "--callback-url",
    **HEADS,
    **GRAPH,
    **EXECUTION,
}
SWEEP: Flags = {**CLUSTER, "embeddings": "EMBEDDINGS", "seeds": "--seed", "linear_probe": "--linear-probe"}

ROUTES = {
    "`GET /models`": "`shoal models list`",
    "`GET /embeddings`": "`shoal ls`",
    "`GET /clusterings`": "`shoal ls`",
}
"""Routes that the services' errors name, as commands."""
_FIELD = re.compile(r"`([a-z_]+(?:\.[a-z_0-9]+)*)`(?:: `([a-z-]+)`)?")
"""A field, and maybe its value: `reduce` or `reduce`: `umap`."""
_LEVEL = re.compile(r'`?\{"folder_level": (\w+)\}`?')
"""A level of folders as the API takes it; ``--labels`` takes ``folder:1``."""
NO_CLUSTERS = "Say how many clusters: `-k 50`, `-k auto` or `--over 1.5`; or let `--method leiden` find out."
TWO_CLUSTERS = "`-k` and `--over` both set the number of clusters: give only one of them."


@contextmanager
def errors_in_flags(flags: Flags) -> Iterator[None]:
    """Raise a service's errors with the names of flags in place of those of fields."""
    try:
        yield
    except ShoalError as error:
        raise in_flags(error, flags) from error


def in_flags(error: ShoalError, flags: Flags) -> ShoalError:
    """``error`` with the names of flags in place of those of fields; the same code and members."""
    refused = error.members.get("errors")
    detail = "; ".join(_sentence(each, flags) for each in refused) if refused else text_in_flags(error.detail, flags)
    members = {name: value for name, value in error.members.items() if name not in {"detail", "code"}}
    return by_code({**members, "code": error.code, "status": error.status, "detail": detail})


def _sentence(refused: Mapping[str, Any], flags: Flags) -> str:
    message = text_in_flags(str(refused["message"]), flags)
    if not refused["field"]:
        return message[:1].upper() + message[1:]
    return f"{_flag(str(refused['field']), flags) or refused['field']}: {message}"


def text_in_flags(text: str, flags: Flags) -> str:
    """A service's message with flags and commands in place of fields and routes."""

    def flag(match: re.Match[str]) -> str:
        found, value = _flag(match[1], flags), match[2]
        if not found or value is None:
            return f"`{found}`" if found else match[0]
        return f"`{found} {value}`" if found.startswith("-") and not found.endswith("…") else f"`{found}`: `{value}`"

    for route, command in ROUTES.items():
        text = text.replace(route, command)
    text = _FIELD.sub(flag, _LEVEL.sub(r"`folder:\1`", text))
    return text.replace('"none"', "`none`").replace("Send `--labels`", "Give `--labels`")


def _flag(field: str, flags: Flags) -> str | None:
    """The flag that sets ``field`` or a field that contains it: ``--labels`` sets ``images.labels.file``."""
    while field not in flags and "." in field:
        field = field.rpartition(".")[0]
    return flags.get(field)


def parse_clusters(text: str) -> int | str:
    """The value of ``-k``.

    Raises
    ------
    typer.BadParameter
        It is not a number of clusters or ``auto``.
    """
    if text == "auto":
        return text
    if text.isdecimal() and text.isascii() and 2 <= int(text[:10]) <= MAX_CLUSTERS:
        return int(text)
    raise typer.BadParameter(f"{text!r} is not valid: give a whole number from 2 to {MAX_CLUSTERS:,}, or `auto`.")


Clusters = Annotated[
    Any,
    typer.Option(
        "--clusters",
        "-k",
        parser=parse_clusters,
        metavar="K|auto",
        help="Number of clusters; auto tries several and takes the best.",
    ),
]


@overload
def expanded(path: Path) -> Path: ...
@overload
def expanded(path: None) -> None: ...
def expanded(path: Path | None) -> Path | None:
    """``path`` with ``~`` as the home folder: shells leave it alone within ``--option=~/x`` and within quotes."""
    return None if path is None else path.expanduser()


def split_label_file(text: str) -> tuple[str, str | None, str | None]:
    """The parts of ``FILE`` or ``FILE:PATH_COLUMN:LABEL_COLUMN``; the columns are None where they are not named.

    The name of a file may have colons in it, too.

    Raises
    ------
    ValueError
        It has neither form.
    """
    file, *columns = text.rsplit(":", 2)
    if Path(text).expanduser().exists() or not columns:
        return text, None, None
    if len(columns) == 1 or not file:
        raise ValueError(text)
    return file, columns[0], columns[1]


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CallbackUrl = Annotated[
    str | None,
    typer.Option("--callback-url", metavar="URL", help="URL that receives a signed webhook when the job has ended."),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="What lies at the path: auto, folder, list, tar, zip, parquet, imagefolder or imagenet.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--include",
        metavar="PATTERN",
        help="Take only images that match the pattern, written as in .gitignore; repeatable.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        help="Leave out images that match the pattern, written as in .gitignore; repeatable.",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, help="Take at most this many images, spread evenly over all.")
]


def chosen_images(
    format: str,  # noqa: A002
    include: list[str] | None,
    exclude: list[str] | None,
    limit: int | None,
) -> dict[str, Any]:
    """The fields of `images` that these flags set."""
    given = {"format": format if format != "auto" else None, "include": include, "exclude": exclude, "limit": limit}
    return {name: value for name, value in given.items() if value}


Data = Annotated[
    Path | None,
    typer.Option("--data", envvar="SHOAL_DATA", help="Folder that holds the image folders.", callback=expanded),
]
Models = Annotated[
    Path | None, typer.Option("--models", envvar="SHOAL_MODELS", help="Folder of checkpoint files.", callback=expanded)
]
StoreRoot = Annotated[
    Path | None,
    typer.Option(
        "--store", envvar="SHOAL_STORE", help="Folder of the store: embeddings and clusterings.", callback=expanded
    ),
]
