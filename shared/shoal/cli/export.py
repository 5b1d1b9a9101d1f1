"""`shoal export`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from shoal.class_folders import ClassFolders
from shoal.cli.flags import Flags, errors_in_flags, expanded
from shoal.cli.output import err
from shoal.client import Client
from shoal.client.vectors import Json
from shoal.errors import PathNotFound

EXPORT: Flags = {"format": "--format", "embeddings": "--embeddings", "root": "--root"}


class Format(StrEnum):
    """What a clustering is exported as."""

    fiftyone = "fiftyone"
    labelstudio = "labelstudio"
    labelstudio_config = "labelstudio-config"
    cvat = "cvat"
    coco = "coco"
    imagefolder = "imagefolder"
    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"


class Link(StrEnum):
    """How an image comes into a folder."""

    symlink = "symlink"
    hard = "hard"
    copy = "copy"


def export(
    clustering: Annotated[str, typer.Argument(help="Id of the clustering.")],
    format_: Annotated[
        Format, typer.Option("--format", help="The tool, or the format of a table; imagefolder makes a folder a class.")
    ],
    to: Annotated[Path, typer.Option(help="The file, or with imagefolder the folder, to write.")],
    root: Annotated[str, typer.Option(help="What comes before each path: the images' folder, or an address.")] = "",
    embeddings: Annotated[str | None, typer.Option(help="Embeddings; the first that were scored by default.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="With imagefolder: the folder of the images that were embedded, on this machine; without it, "
            "`--to` is a .tar file with the images as the service has them."
        ),
    ] = None,
    link: Annotated[Link, typer.Option(help="With imagefolder: symlink, hard link, or copy.")] = Link.symlink,
) -> None:
    """Write the class of every image for another tool, with names, merges and moves applied."""
    target, folder = expanded(to), expanded(images)
    with errors_in_flags(EXPORT), Client() as client:
        archived = folder is None and target.suffix == ".tar"
        if format_ is not Format.imagefolder or archived:
            client.export(clustering, format_.value, target, embeddings=embeddings, root=root)
            typer.echo(f"{target}: {target.stat().st_size:,} bytes")
            return
        if folder is None or not folder.is_dir():
            raise typer.BadParameter(
                "give the folder of the images, `--images FOLDER`, or have the service send them: `--to FILE.tar`.",
                param_hint="--images",
            )
        made, left = link_images(client.export_rows(clustering, embeddings=embeddings), folder.resolve(), target, link)
    for path in left[:5]:
        err.print(f"{path} is not a file in {folder}.", markup=False, highlight=False)
    if not made:
        raise PathNotFound(f"{folder} holds none of the images: `--images` takes the folder that was embedded.")
    more = f", {len(left)} left out" if left else ""
    typer.echo(f"{made} images in {target}{more}")


def link_images(rows: Iterator[Json], images: Path, target: Path, link: Link) -> tuple[int, list[str]]:
    """Put each image into the folder of its class; how many, and the paths of those that are not there.

    Paths within a class stay as they are, so that no two images meet. One that leads out of ``images`` is left out.
    """
    folders = ClassFolders()
    made, left = 0, []
    for row in rows:
        path = row["image_path"]
        source = source_of(images, path)
        if source is None:
            left.append(str(path))
            continue
        label = row["name"] or f"cluster {row['merged_cluster']}"
        final = target / folders.of(label) / path
        final.parent.mkdir(parents=True, exist_ok=True)
        final.unlink(missing_ok=True)
        _put(source, final, link)
        made += 1
    return made, left


def _put(source: Path, final: Path, link: Link) -> None:
    if link is Link.symlink:
        final.symlink_to(source)
    elif link is Link.hard:
        final.hardlink_to(source)
    else:
        shutil.copyfile(source, final)


def source_of(images: Path, path: str | None) -> Path | None:
    """The file of an image below ``images``; None if it is none, or lies elsewhere."""
    if not path or "\0" in path:
        return None
    parts = PurePosixPath(path).parts
    source = images.joinpath(*parts)
    if ".." in parts or path.startswith("/") or not source.is_file():
        return None
    return source if source.resolve().is_relative_to(images) else None
