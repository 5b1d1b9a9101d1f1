"""`sweep` and `reproduce`: many clusterings of the same embeddings, in one table and in plots."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import ValidationError
from rich.table import Table

from shoal import __version__, paper
from shoal.cli.execution import Engine, RayAddress, WorkerCpus, WorkerGpus, WorkerMemory, Workers, execution_of
from shoal.cli.flags import SWEEP, AsJson, CallbackUrl, errors_in_flags
from shoal.cli.graph import GraphOption, counts_itself, graph_of
from shoal.cli.heads import HeadOption, Methods, heads_of
from shoal.cli.jobs import Wait, finish, given
from shoal.cli.output import columns_of, err, out
from shoal.cli.reduce import Reductions
from shoal.cli.where import WhereClusters, WhereLabel, WhereNoDuplicates, WherePath, where_of
from shoal.client import Client
from shoal.errors import InvalidRequest
from shoal.figures import number
from shoal.jobs.states import JobState
from shoal.schemas import DEFAULT_EVALUATION_SEEDS, Job, SweepRequest

Json = dict[str, Any]
T = TypeVar("T", int, float)

SHOWN = (
    ("accuracy_hungarian_train", "ACC 1:1"),
    ("accuracy_mixed_train", "ACC mixed"),
    ("ari", "ARI"),
    ("ami", "AMI"),
    ("silhouette", "silhouette"),
    ("linear_probe", "linear"),
)
PCA_GRID = (16, 32, 64, 128, 256, 512, 1024, 2048)
LOOKED_THROUGH = 100
OVER_GRID = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0)


class Study(StrEnum):
    """The paper's studies that `shoal reproduce` repeats."""

    PCA = "pca-ablation"
    OVER = "over-clustering"
    MODELS = "models"


Sets = Annotated[
    list[str],
    typer.Argument(
        help="Ids of embeddings, one per model; TRAIN:SCORED[:SCORED…] fits on the first set and scores the others."
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the table (CSV) and the plots.")]
Normalize = Annotated[bool, typer.Option(help="Scale embeddings to unit length first.")]
Seeds = Annotated[
    list[int] | None, typer.Option("--seed", help="Random seed; repeatable; 0, 1 and 2 by default if there are labels.")
]
Iterations = Annotated[int | None, typer.Option(help="Maximum number of k-means iterations.")]


Again = Annotated[bool, typer.Option("--again", help="Run the sweep even if the same one is running or done.")]
Restarts = Annotated[int | None, typer.Option(help="Runs per seed; the one with the lowest inertia is kept.")]


def sweep(
    embeddings: Sets,
    where_label: WhereLabel = None,
    where_path: WherePath = None,
    where_clusters: WhereClusters = None,
    where_no_duplicates: WhereNoDuplicates = None,
    clusters: Annotated[
        str | None, typer.Option("--clusters", "-k", help="Numbers of clusters, such as 10,20,50.")
    ] = None,
    over: Annotated[str | None, typer.Option(help="Multiples of the number of classes, such as 1,1.5,2.")] = None,
    pca: Annotated[str | None, typer.Option(help="Numbers of principal components, such as 16,64,all.")] = None,
    whiten: Annotated[bool, typer.Option(help="Cluster with and without whitening.")] = False,
    normalize: Normalize = True,
    both_norms: Annotated[
        bool, typer.Option("--both-norms", help="Cluster with and without scaling to unit length.")
    ] = False,
    reduce: Reductions = None,
    method: Methods = None,
    head: HeadOption = None,
    graph: GraphOption = None,
    linear_probe: Annotated[bool, typer.Option(help="Also fit a linear classifier.")] = False,
    seeds: Seeds = None,
    iterations: Iterations = None,
    restarts: Restarts = None,
    execution: Engine = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
    output: Output = None,
    again: Again = False,
    callback_url: CallbackUrl = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Cluster with every combination of the lists and print a table, or the job's id with --no-wait."""
    projection: Json | None = None
    if pca or whiten:
        components = [None if part == "all" else _parse(part, int, "--pca") for part in (pca or "all").split(",")]
        projection = {"components": components, "whiten": [False, True] if whiten else False}
    if clusters is None and over is None and not all(map(counts_itself, (method or "kmeans").split(","))):
        raise InvalidRequest("Say how many clusters: `-k 10,20,50` or `--over 1,1.5,2`.")
    with errors_in_flags(SWEEP), Client() as client:
        job = submit(
            client,
            [parse_sets(each) for each in embeddings],
            again=again,
            where=where_of(where_label, where_path, where_clusters, where_no_duplicates),
            clusters=numbers(clusters, int, "--clusters"),
            over=numbers(over, float, "--over"),
            pca=projection,
            normalize=[True, False] if both_norms else normalize,
            reduce=reduce or None,
            linear_probe=linear_probe,
            **({"method": method.split(",")} if method else {}),
            heads=heads_of(head),
            graph=graph_of(graph),
            seeds=seeds or None,
            kmeans=given(iterations=iterations, restarts=restarts),
            execution=execution_of(execution, ray_address, workers, worker_cpus, worker_gpus, worker_memory),
            callback_url=callback_url,
        )
        _finish(client, job, wait, as_json, output)


def reproduce(
    study: Annotated[Study, typer.Argument(metavar="|".join(Study), help="Study of the paper to repeat.")],
    embeddings: Sets,
    pca: Annotated[
        int | None, typer.Option(help="Number of principal components, in studies that do not vary it.")
    ] = None,
    normalize: Normalize = True,
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Random seed; repeatable; 0, 1 and 2 by default.")
    ] = None,
    iterations: Iterations = None,
    restarts: Restarts = None,
    output: Output = None,
    again: Again = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Repeat a study of arXiv 2008.10312 on your embeddings and print its figures beside yours."""
    with errors_in_flags(SWEEP), Client() as client:
        fields: Json = {"pca": {"components": pca}} if pca else {}
        fields |= study_fields(study, [client.embeddings(each.partition(":")[0]) for each in embeddings])
        job = submit(
            client,
            [parse_sets(each) for each in embeddings],
            again=again,
            normalize=normalize,
            seeds=seeds or list(DEFAULT_EVALUATION_SEEDS),
            kmeans=given(iterations=iterations, restarts=restarts),
            reference=str(study),
            **fields,
        )
        found = _finish(client, job, wait, as_json, output or (Path(f"reproduce-{study}") if wait else None))
    if found is not None and not as_json:
        out.print(paper_table(study))
        out.print(differences_table())


def submit(client: Client, sets: list[str | Json], *, again: bool, **fields: Any) -> Job:
    """Submit a sweep, or find the job of the same request that is queued, running or done.

    A command that is repeated after it was killed continues; a second run with the same seeds has the same result.
    """
    found = None if again else same_sweep(client, sets, fields)
    if found is None:
        return client.sweep(sets, **fields)
    state = "done" if found.state is JobState.SUCCEEDED else found.state
    err.print(f"The same sweep is {state} as job {found.id}; add --again to run it again.")
    return found


def same_sweep(client: Client, sets: list[str | Json], fields: Json) -> Job | None:
    """The newest job of the same request that did not fail and whose result still exists."""
    # A job does not keep who hears of its end, so two that differ in this alone are the same.
    body = {"embeddings": sets[0] if len(sets) == 1 else sets, **fields, "callback_url": None}
    try:
        wanted = SweepRequest.model_validate({name: value for name, value in body.items() if value is not None})
    except ValidationError:
        return None  # The service answers with the reason.
    # What another version made of the same request may differ.
    finished = {each["id"] for each in client.sweeps() if each["complete"] and each.get("version") == __version__}
    for job in client.jobs(kind="sweep", limit=LOOKED_THROUGH).jobs:
        lives = job.state in {JobState.QUEUED, JobState.RUNNING} and not job.cancel_requested
        done = job.state is JobState.SUCCEEDED and (job.result or {}).get("sweep") in finished
        if (lives or done) and _request(job) == wanted:
            return job
    return None


def study_fields(study: Study, facts: list[Json]) -> Json:
    """The grid of a study, limited by the dimensions and rows of the embeddings.

    Raises
    ------
    InvalidRequest
        The embeddings have no labels to compare with.
    """
    if not all(each.get("classes") for each in facts):
        raise InvalidRequest("The paper's studies need labels: give embeddings that have labels.")
    if study is Study.PCA:
        most = min(min(int(each["dim"]), int(each["rows"])) for each in facts)
        return {"over": 1.0, "pca": {"components": sorted({*(size for size in PCA_GRID if size < most), most})}}
    if study is Study.OVER:
        return {"over": list(OVER_GRID)}
    return {"over": 1.0, "linear_probe": True}


def parse_sets(text: str) -> str | Json:
    """``TRAIN`` or ``TRAIN:SCORED:…`` as the API takes it."""
    train, *scored = text.split(":")
    return {"train": train, "score": scored} if scored else train


def numbers(text: str | None, kind: Callable[[str], T], option: str) -> list[T] | None:
    """A comma-separated list of numbers."""
    return None if text is None else [_parse(part, kind, option) for part in text.split(",")]


def _finish(client: Client, job: Job, wait: bool, as_json: bool, output: Path | None) -> str | None:
    """Wait, show and save; the sweep's id, or None without ``wait``."""
    if not wait:
        finish(client, job, wait=False, as_json=as_json)
        return None
    job = finish(client, job, wait=True, as_json=as_json)
    sweep_id = str((job.result or {})["sweep"])
    facts = client.sweep_facts(sweep_id)
    if not as_json:
        out.print(sweep_table(facts["table"]))
    if output is not None:
        save(client, facts, output)
    return sweep_id


def save(client: Client, facts: Json, output: Path) -> None:
    """Download a sweep's table and plots into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    plots = [f"{name}.{extension}" for name in facts["plots"] for extension in ("svg", "png")]
    for name in ("table.csv", *plots):
        client.download_sweep(str(facts["id"]), name, output / name)
    err.print(f"Table and plots are in {output}.")


def _parse(text: str, kind: Callable[[str], T], option: str) -> T:
    try:
        return kind(text.strip())
    except ValueError:
        raise InvalidRequest(
            f"`{option}` takes a comma-separated list of numbers, such as 10,20,50; {text!r} is not a number."
        ) from None


def _request(job: Job) -> SweepRequest | None:
    try:
        return SweepRequest.model_validate(job.request)
    except ValidationError:
        return None  # Of another version of the service.


def sweep_table(rows: list[Json], title: str | None = None) -> Table:
    """A sweep's table with the columns that vary and the main metrics."""
    names = ("model", "scored", "normalize", "components", "whiten", "reduce", "method", "over", "k")
    known = [row for row in rows if not row.get("error_code")]  # The others have neither `k` nor `scored`.
    varying = [
        name for name in names if len({row.get(name) for row in (known if name in {"k", "scored"} else rows)}) > 1
    ] or ["k"]
    metrics = [(key, label) for key, label in SHOWN if any(row[key] is not None for row in rows)]
    failed = len(known) < len(rows)
    columns = (*varying, *(label for _, label in metrics), *(["error"] if failed else []))
    table = columns_of(*columns, right=set(columns) - {"model", "scored", "method", "error"}, title=title)
    for row in rows:
        facts = ["all" if row[name] is None and name == "components" else _cell(row[name]) for name in varying]
        error = [row.get("error_message") or ""] if failed else []
        table.add_row(*facts, *(number(row[key], row.get(f"{key}_std")) for key, _ in metrics), *error)
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
    """How the protocol differs from the paper's, and why."""
    table = columns_of("", "paper", "here", "why", title="Where this differs from the paper's protocol")
    for each in paper.differences():
        table.add_row(each.what, each.paper, each.ours, each.why)
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
