"""`shoal run`: group the images of one folder with services of its own."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from shoal.cli.flags import (
    CLUSTER,
    EXTRACT,
    TWO_CLUSTERS,
    Clusters,
    Exclude,
    Flags,
    Format,
    Include,
    Limit,
    Models,
    StoreRoot,
    chosen_images,
    errors_in_flags,
    expanded,
)
from shoal.cli.graph import GraphOption, graph_of
from shoal.cli.heads import Method
from shoal.cli.jobs import DEFAULT_MODEL, EngineFlag, Labels, Model, given, parse_model
from shoal.cli.output import duration, err, out, progress_bars, watch_job
from shoal.cli.reduce import Reduce
from shoal.cli.request import (
    FEWEST_IMAGES,
    MAX_FAILED_FRACTION,
    Json,
    RunRequest,
    Source,
    canonical,
    choose,
    same_clustering,
)
from shoal.cli.session import Interrupted, Session, interruptible
from shoal.cli.summary import RunSummary, left_out, print_summary, quoted
from shoal.cli.uploads import run_elsewhere
from shoal.client.transport import is_local
from shoal.errors import ClustersInvalid, EmbeddingsNotFound, InvalidRequest, NotFound, StoreError
from shoal.jobs.states import JobState
from shoal.schemas import Job
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.listing import open_each

RUN: Flags = {**EXTRACT, **CLUSTER, "images": "FOLDER", "images.path": "FOLDER", "clusters": "-k"}


@dataclass(frozen=True)
class RunResult:
    """Ids and notes of a run."""

    extraction: Json
    embeddings: str
    clustering: str
    reused: bool
    notes: tuple[str, ...] = ()


Folder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of images, whose subfolders are the classes, or a list or an archive of images.",
        callback=expanded,
    ),
]
Over = Annotated[
    float | None, typer.Option(min=0.01, max=1000, help="Number of clusters as a multiple of the number of classes.")
]
Pca = Annotated[int | None, typer.Option(min=1, help="Number of principal components to keep.")]
MaxFailed = Annotated[
    float, typer.Option(min=0, max=1, help="Fail if more than this share of the images cannot be read.")
]
Again = Annotated[bool, typer.Option("--again", help="Cluster again even if the same clustering exists.")]
Sheet = Annotated[Path | None, typer.Option(help="Copy the contact sheet to this PNG.", callback=expanded)]
Report = Annotated[Path | None, typer.Option(help="Copy the report to this HTML file.", callback=expanded)]


def run(
    folder: Folder,
    model: Model = DEFAULT_MODEL,
    labels: Labels = "folder",
    format: Format = "auto",  # noqa: A002
    include: Include = None,
    exclude: Exclude = None,
    limit: Limit = None,
    clusters: Clusters = None,
    over: Over = None,
    pca: Pca = None,
    reduce: Reduce = None,
    method: Method = None,
    graph: GraphOption = None,
    max_failed_fraction: MaxFailed = MAX_FAILED_FRACTION,
    engine: EngineFlag = None,
    again: Again = False,
    sheet: Sheet = None,
    report: Report = None,
    models: Models = None,
    store: StoreRoot = None,
) -> None:
    """Group the images of one folder and show the groups. Starts the services it needs and stops them at the end.

    If SHOAL_EXTRACTOR_URL is another machine's, the folder is sent to it.
    """
    started = time.monotonic()
    if clusters is not None and over is not None:
        raise InvalidRequest(TWO_CLUSTERS)
    settings = Settings()
    projection = {"components": pca} if pca else None
    options = given(pca=projection, reduce=reduce, method=method, graph=graph_of(graph)) or {}
    source = Source.of(folder, labels, **chosen_images(format, include, exclude, limit))
    ask = RunRequest(source, parse_model(model), clusters, over, options, again, max_failed_fraction, engine)
    if not is_local(settings.extractor_url):
        with errors_in_flags(RUN):
            run_elsewhere(ask, sheet, report)
        return
    opened = Store.of(settings, store)
    command = quoted("shoal", "run", folder) + _flags(model, labels, models, store, source.chosen)
    keep, roots = partial(ask.same_as, store=opened), (ask.source.root, models or settings.models, opened.root)
    session = Session(*roots, command="shoal run", keep=keep)
    with explaining_stops(session, ask.source, opened, quoted("shoal", *sys.argv[1:])), errors_in_flags(RUN):
        err.print(f"Starting Shoal with the store {opened.root} …", markup=False, highlight=False)
        with session:
            _report_dropped(session, ask.source)
            found = extract_and_cluster(session, ask, opened)
            made = RunSummary(
                folder=ask.source.folder,
                embeddings=found.embeddings,
                clustering=found.clustering,
                extraction=found.extraction,
                reused=found.reused,
                files=result_files(opened, found.clustering, sheet, report),
                seconds=duration(time.monotonic() - started),
                again=command,
                store_flag=f" {quoted('--store', store)}" if store else "",
                notes=found.notes,
            )
            print_summary(out, opened, made)


def extract_and_cluster(session: Session, ask: RunRequest, store: Store) -> RunResult:
    """Run both jobs with progress bars, or find their results in the store.

    Raises
    ------
    ShoalError
        A job failed, or there are too few images to group.
    """
    client = session.client
    job = client.extract(
        ask.source.path,
        model=ask.model,
        labels=ask.source.labels,
        engine=ask.engine,
        max_failed_fraction=ask.max_failed_fraction,
        **ask.source.chosen,
    )
    with progress_bars() as progress:
        extraction = watch_job(client, job, progress, session.check).result or {}
        embeddings = str(extraction["embeddings"])
        facts = client.embeddings(embeddings)
        _require_images(facts, ask.source, store, extraction)
        facts["labelled"] = _labelled(store, embeddings)
        chosen = choose(facts)
        notes = _chosen(facts, chosen.get("clusters")) if ask.open else ()
        body = ask.body(embeddings, chosen)
        known = None if ask.again else same_clustering(store, body)
        if known is not None:
            _drop(session, session.kept)
            return RunResult(extraction, embeddings, known, reused=True, notes=notes)
        job = _unfinished(session, body) or client.cluster(**body)
        job = watch_job(client, job, progress, session.check)
    return RunResult(extraction, embeddings, str((job.result or {})["clustering"]), reused=False, notes=notes)


def _labelled(store: Store, embeddings: str) -> int:
    labels = store.embeddings(embeddings).metadata(["label"]).column("label")
    return len(labels) - int(labels.null_count)


def result_files(store: Store, clustering: str, sheet: Path | None, report: Path | None) -> dict[str, Path]:
    """Report and contact sheet by name: where the store has them, or where they were copied to.

    Raises
    ------
    StoreError
        They cannot be copied; the message says where they are.
    """
    layout = store.clustering(clustering).layout
    files = {}
    for name, made, target in (
        ("report", layout.report_html, report),
        ("contact sheet", layout.contact_sheet, sheet),
    ):
        files[name] = made.resolve()
        if target is None:
            continue
        target = target / made.name if target.is_dir() else target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(made, target)
        except OSError as error:
            raise StoreError(
                f"The {name} cannot be written to {target} ({error.strerror or error}). It is at {files[name]}."
            ) from None
        files[name] = target.resolve()
    return files


@contextmanager
def explaining_stops(session: Session, source: Source, store: Store, command: str) -> Iterator[None]:
    """On Ctrl-C or a full disk, print what is kept and how to continue."""
    try:
        with interruptible(session):
            yield
    except KeyboardInterrupt as error:
        err.print(_kept(source, store, command), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(error.status if isinstance(error, Interrupted) else 130) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise StoreError(
            f"{where}{error.strerror or error}. Fix this, then run the same command again: embeddings are kept."
        ) from error


def _flags(model: str, labels: str, models: Path | None, store: Path | None, chosen: Json) -> str:
    """The flags that another run on the same images needs."""
    given: list[tuple[str, object, object]] = [("--model", model, DEFAULT_MODEL), ("--labels", labels, "folder")]
    given += [("--models", models, None), ("--store", store, None)]
    for name, value in chosen.items():
        given += [(f"--{name}", each, None) for each in (value if isinstance(value, list) else [value])]
    words = [word for flag, value, default in given if value != default for word in (flag, str(value))]
    return f" {quoted(*words)}" if words else ""


def _require_images(facts: Json, source: Source, store: Store, extraction: Json) -> None:
    rows = int(facts["rows"])
    if rows >= FEWEST_IMAGES:
        return
    errors = store.embeddings(str(facts["id"])).errors().slice(0, 3).to_pylist()
    what = "No image" if not rows else "Only 1 image"
    why = "".join(f" {row['image_path']}: {row['message']}" for row in errors)
    more = f" {facts['failed']:,} could not be read.{why}" if errors else ""
    if told := left_out(extraction):
        reasons = " ".join(str(each["message"]) for each in extraction["not_taken"][:3])
        more += f" Skipped: {told}. {reasons}"
    raise ClustersInvalid(f"{what} of {source.folder} could be read; clustering needs at least {FEWEST_IMAGES}.{more}")


def _chosen(facts: Json, clusters: int | str | None) -> tuple[str, ...]:
    if clusters == "auto":
        return ()  # The clustering says itself how it was found.
    if clusters is None:
        return (f"Number of groups: {facts['classes']}, one per class. Use `-k` or `--over` for another number.",)
    why = "There is only one class" if facts.get("classes") else "There are no labels"
    if (facts.get("classes") or 0) >= FEWEST_IMAGES:
        why = "Most images have no class"
    return (
        f"{why}: {clusters} groups is the square root of half the images. Use `-k` or `-k auto` for another number.",
    )


def _unfinished(session: Session, body: Json) -> Job | None:
    """The job of an earlier command that clusters the same; the other ones are cancelled."""
    same = [job for job in session.kept if canonical(job.request) == canonical(body)]
    _drop(session, [job for job in session.kept if job not in same[:1]])
    if not same:
        return None
    job = session.client.job(same[0].id)
    if job.state in {JobState.FAILED, JobState.CANCELLED}:
        return None
    err.print("Continuing the clustering that an earlier run started.", highlight=False)
    return job


def _drop(session: Session, jobs: list[Job]) -> None:
    for job in jobs:
        with suppress(InvalidRequest, NotFound, StoreError):
            if not session.client.job(job.id).state.terminal:
                session.client.cancel(job.id)


def _report_dropped(session: Session, source: Source) -> None:
    """Print which folders of earlier runs are unfinished: their embeddings stay in the store."""
    paths = {str((job.request.get("images") or {}).get("path")) for job in session.dropped}
    for path in sorted(paths - {source.path, "None"}):
        folder = quoted(source.root / path)
        err.print(
            f"An earlier run on {folder} did not finish. Its embeddings are kept: `shoal run {folder}` continues it.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _kept(source: Source, store: Store, command: str) -> str:
    """What a stopped run keeps, and how to continue it."""
    try:
        found = _newest(source, store)
        done = store.saved_images(found.id) if found is not None else 0
    except (StoreError, EmbeddingsNotFound, OSError):
        found, done = None, 0
    if found is None or not done:
        return f"Stopped before an image was embedded. Run `{command}` to start again."
    total = found.plan.source.count
    where = f"kept in {store.root.resolve()}"
    if found.complete:
        return (
            f"Stopped. All {total:,} images are embedded and {where}. Run `{command}` to continue with the clustering."
        )
    return f"Stopped. {done:,} of {total:,} images are embedded and {where}. Run `{command}` to continue."


def _newest(source: Source, store: Store) -> EmbeddingSet | None:
    """The set of the folder's embeddings that was written to last."""
    newest: tuple[float, EmbeddingSet | None] = (0.0, None)
    for entry in open_each("embeddings", store.embeddings_ids(), store.embeddings):
        found = entry.item
        if found is None or found.plan.source.path != source.path:
            continue
        layout = found.layout
        times = [layout.changed(path) for path in (layout.plan, layout.commits, layout.all_parts)]
        newest = max(newest, (max(times), found), key=lambda each: each[0])
    return newest[1]
