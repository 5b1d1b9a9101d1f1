"""`shoal upload`, and `shoal run` on services of another machine: the folder is sent to them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from shoal.cli.flags import IMPORT, errors_in_flags, expanded
from shoal.cli.output import err, metrics_table, out, progress_bars, watch_job
from shoal.cli.request import FEWEST_IMAGES, Json, RunRequest, choose
from shoal.cli.summary import reasons
from shoal.client import Client
from shoal.client.uploads import UPLOAD, with_label_file
from shoal.errors import ClustersInvalid
from shoal.settings import Settings

MIB = 2**20


def upload(
    folder: Annotated[Path, typer.Argument(help="Folder of images on this machine.", callback=expanded)],
) -> None:
    """Send a folder to the extractor and print `upload:ID`, which `shoal extract` takes.

    The same command continues an upload that was interrupted.
    """
    with Client() as client, progress_bars() as progress:
        found = client.upload(folder, on_progress=_bar(progress))
    err.print(f"{found['images']:,} files, {found['bytes'] / MIB:,.1f} MiB.", highlight=False)
    typer.echo(f"{UPLOAD}{found['upload']}")


def run_elsewhere(ask: RunRequest, sheet: Path | None, report: Path | None) -> None:
    """Upload the folder, embed and cluster it on services of another machine, and print how good the groups are."""
    source, url = ask.source, Settings().extractor_url
    labels: Json = {"labels": source.labels}
    extra: dict[str, Path] = {}
    if isinstance(source.labels, dict) and "file" in source.labels:
        file = str(source.root / source.labels["file"])
        extra, labels = with_label_file(source.folder, {"labels": {**source.labels, "file": file}})
    err.print(f"Sending {source.folder} to {url} …", markup=False, highlight=False, soft_wrap=True)
    with Client() as client, progress_bars() as progress:
        sent = client.upload(source.folder, extra=extra, on_progress=_bar(progress))
        job = client.extract(
            f"{UPLOAD}{sent['upload']}",
            model=ask.model,
            engine=ask.engine,
            max_failed_fraction=ask.max_failed_fraction,
            **labels,
            **source.chosen,
        )
        embeddings = str((watch_job(client, job, progress).result or {})["embeddings"])
        facts = client.embeddings(embeddings)
        if int(facts["rows"]) < FEWEST_IMAGES:
            raise ClustersInvalid(
                f"{facts['rows']} images of {source.folder} could be read; clustering needs at least {FEWEST_IMAGES}."
            )
        job = client.cluster(**ask.body(embeddings, choose(facts)))
        clustering = str((watch_job(client, job, progress).result or {})["clustering"])
        metrics, facts = client.metrics(clustering), client.clustering(clustering)
        for what, target in (("report", report), ("contact-sheet", sheet)):
            if target is not None:
                client.download(clustering, what, target)
    for why in reasons(facts):
        out.print(why, markup=False, highlight=False, soft_wrap=True)
    out.print(metrics_table(metrics))
    for name, found in (("embeddings", embeddings), ("clustering", clustering)):
        out.print(f"{name}: {found}", markup=False, highlight=False, soft_wrap=True)
    where = f"{Settings().clusterer_url}/clusterings/{clustering}/report"
    out.print(f"report: {report or where}", markup=False, highlight=False, soft_wrap=True)


def import_elsewhere(
    path: Path, name: str, labels: Path | None, columns: tuple[str | None, str | None] | None, options: Json
) -> dict[str, str]:
    """Send embeddings to services of another machine and import them there.

    Returns
    -------
    dict of str to str
        As of `shoal.importer.import_sets`.
    """
    named: Json = {}
    if labels is not None:
        named = {
            "labels": {"file": labels, "path_column": columns and columns[0], "label_column": columns and columns[1]}
        }
    err.print(f"Sending {path} to {Settings().extractor_url} …", markup=False, highlight=False, soft_wrap=True)
    with errors_in_flags(IMPORT), Client() as client, progress_bars() as progress:
        job = client.import_embeddings(path, name=name, on_progress=_bar(progress), **named, **options)
        result = watch_job(client, job, progress).result or {}
    sets: dict[str, str] = result.get("sets") or {"": str(result["embeddings"])}
    return sets


def _bar(progress: Progress) -> Callable[[int, int], None]:
    """A progress bar of an upload, in MiB."""
    bar = progress.add_task("upload", total=None, rate="", eta="")

    def show(done: int, total: int) -> None:
        progress.update(bar, completed=done // MIB, total=max(total // MIB, 1), rate="MiB")

    return show
