"""`extract`, `cluster`, `jobs`, `watch`, `cancel`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from shoal.cli.execution import Engine, RayAddress, WorkerCpus, WorkerGpus, WorkerMemory, Workers, execution_of
from shoal.cli.flags import (
    CLUSTER,
    EXTRACT,
    NO_CLUSTERS,
    TWO_CLUSTERS,
    AsJson,
    CallbackUrl,
    Clusters,
    Exclude,
    Format,
    Include,
    Limit,
    chosen_images,
    errors_in_flags,
    split_label_file,
)
from shoal.cli.graph import GraphOption, counts_itself, graph_of
from shoal.cli.heads import HeadOption, Method, Space, heads_of, spaces_of
from shoal.cli.output import err, jobs_table, out, progress_bars, watch_job
from shoal.cli.reduce import Reduce
from shoal.cli.where import WhereClusters, WhereLabel, WhereNoDuplicates, WherePath, where_of
from shoal.client import Client
from shoal.errors import InvalidRequest, JobNotFound, NoImages, PathNotFound, PathOutsideRoot
from shoal.schemas import RESULTS, Job
from shoal.settings import Settings

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the job to end and show its progress.")]
Model = Annotated[
    str,
    typer.Option(
        "--model", "-m", envvar="SHOAL_MODEL", help="A name from `shoal models list`, `timm:<name>`, or a JSON object."
    ),
]
Labels = Annotated[
    str,
    typer.Option(
        envvar="SHOAL_LABELS",
        metavar="folder[:LEVEL]|none|FILE[:PATH:LABEL]",
        help="Where labels come from: folder names (folder:LEVEL counts levels below the folder from 0), none, or a "
        "label file with the names of its columns. A relative FILE is looked up in the working directory, then below "
        "the data root.",
    ),
]
EngineFlag = Annotated[
    str | None,
    typer.Option("--engine", help="How a network runs: auto, eager, bf16, compile, openvino or openvino-int8."),
]
DEFAULT_MODEL = "tf_efficientnet_lite0"


def parse_model(text: str) -> str | dict[str, Any]:
    """A model as the API takes it: a name, or a JSON object."""
    if not text.lstrip().startswith("{"):
        return text
    return parse_object(text, "--model")


def parse_object(text: str, flag: str) -> dict[str, Any]:
    """The JSON object that is the value of ``flag``.

    Raises
    ------
    InvalidRequest
        It is not JSON.
    """
    try:
        parsed: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"`{flag}` is not valid JSON: {error}.") from None
    return parsed


def parse_labels(text: str) -> str | dict[str, Any]:
    """Labels as the API takes them: its own words, ``folder:N``, or a file with its columns."""
    if text in {"folder", "none"}:
        return text
    kind, _, level = text.partition(":")
    if kind == "folder" and level.isascii() and level.isdigit():
        return {"folder_level": int(level[:9])}
    if text.startswith('{"folder_level"'):  # As the API's own errors write it.
        return parse_object(text, "--labels")
    try:
        file, path_column, label_column = split_label_file(text)
    except ValueError:
        raise InvalidRequest(
            f"`--labels` is {text!r}: give `folder`, `folder:LEVEL`, `none`, `FILE`, or "
            "`FILE:PATH_COLUMN:LABEL_COLUMN`."
        ) from None
    here = Path(file).expanduser()
    file = str(here.resolve()) if here.is_absolute() or here.is_file() else file
    columns = {"path_column": path_column, "label_column": label_column}
    return {"file": file, **{key: value for key, value in columns.items() if value is not None}}


def source_path(text: str) -> str:
    """A folder of images as the API takes it: ``~`` is the home folder, an absolute path loses its links."""
    path = Path(text).expanduser()
    return str(path.resolve()) if path.is_absolute() else text


@contextmanager
def _root_named(path: str) -> Iterator[None]:
    """Add to the error of a folder that the service does not find: the data root, and how to use another one."""
    try:
        yield
    except (PathNotFound, PathOutsideRoot, NoImages) as error:
        if error.members.get("field") != "images.path":
            raise
        from shoal.embedded import find_stack  # With the libraries of the store, which take longer than a request.

        stack, here = find_stack(Settings().store), Path(path).expanduser()
        root = f" The service's data root is {stack.data}." if stack is not None and stack.data else ""
        hint = ""
        if here.is_dir() and not isinstance(error, NoImages):
            hint = f" {here.resolve()} exists: start the service with `shoal up --data {here.resolve().parent}`, or "
            hint += "use `shoal run` instead of `shoal extract`, or send the folder with `--upload`."
        raise type(error)(error.detail + root + hint, **error.members) from error


def finish(client: Client, job: Job, wait: bool, as_json: bool = False) -> Job:
    """Print the job or its id; with ``wait``, after its end."""
    if wait:
        with progress_bars() as progress:
            job = watch_job(client, job, progress)
    if as_json:
        typer.echo(job.model_dump_json(indent=2))
    else:
        result = job.result or {}
        typer.echo(next((result[each] for each in RESULTS if result.get(each)), job.id))
    return job


def extract(
    path: Annotated[
        str,
        typer.Argument(
            help="Folder, list or archive of images: relative to the service's data root, or an absolute path below "
            "it; or `upload:ID`, as `shoal upload` prints it."
        ),
    ],
    model: Model = DEFAULT_MODEL,
    labels: Labels = "folder",
    split: Annotated[
        str | None, typer.Option(envvar="SHOAL_SPLIT", help="Split to store with every row, such as val.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Prefix of the embeddings id.")] = None,
    batch_size: Annotated[int | None, typer.Option(envvar="SHOAL_BATCH_SIZE", help="Images per batch.")] = None,
    engine: EngineFlag = None,
    dtype: Annotated[
        str | None, typer.Option(envvar="SHOAL_DTYPE", help="Type of the stored values: float16 or float32.")
    ] = None,
    shard_rows: Annotated[int | None, typer.Option(envvar="SHOAL_SHARD_ROWS", help="Rows per shard.")] = None,
    format: Format = "auto",  # noqa: A002
    include: Include = None,
    exclude: Exclude = None,
    limit: Limit = None,
    max_failed_fraction: Annotated[
        float | None,
        typer.Option(
            envvar="SHOAL_MAX_FAILED_FRACTION", help="Fail if more than this share of the images cannot be read."
        ),
    ] = None,
    upload: Annotated[
        bool | None,
        typer.Option(
            "--upload/--no-upload",
            help="Send the folder of this machine to the service first; by default where the service runs on another "
            "machine and has no such path.",
        ),
    ] = None,
    reuse: Annotated[
        bool, typer.Option(help="Take rows over from earlier embeddings of the same images and model.")
    ] = True,
    callback_url: CallbackUrl = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Most workers that share the job; by default all that are idle.")
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Embed images and print the id of the embeddings."""
    with _root_named(path), errors_in_flags(EXTRACT), Client() as client:
        job = client.extract(
            source_path(path),
            model=parse_model(model),
            upload=upload,
            labels=parse_labels(labels),
            **({"split": split} if split else {}),
            **chosen_images(format, include, exclude, limit),
            name=name,
            batch_size=batch_size,
            engine=engine,
            dtype=dtype,
            shard_rows=shard_rows,
            max_failed_fraction=max_failed_fraction,
            **({} if reuse else {"reuse": None}),
            callback_url=callback_url,
            workers=workers,
        )
        finish(client, job, wait, as_json)


def cluster(
    embeddings: Annotated[str, typer.Argument(help="Id of the embeddings to fit on.")],
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="Id of other embeddings to score, such as a validation set, in place of those fitted on; repeatable."
        ),
    ] = None,
    where_label: WhereLabel = None,
    where_path: WherePath = None,
    where_clusters: WhereClusters = None,
    where_no_duplicates: WhereNoDuplicates = None,
    clusters: Clusters = None,
    over: Annotated[
        float | None,
        typer.Option(help="In place of -k: number of clusters as a multiple of the number of classes, such as 1.5."),
    ] = None,
    pca: Annotated[int | None, typer.Option(help="Number of principal components to keep; no PCA by default.")] = None,
    whiten: Annotated[bool, typer.Option(help="Whiten the principal components.")] = False,
    method: Method = None,
    head: HeadOption = None,
    graph: GraphOption = None,
    space: Space = None,
    normalize: Annotated[bool, typer.Option(help="Scale embeddings to unit length first.")] = True,
    reduce: Reduce = None,
    engine: Annotated[
        str | None,
        typer.Option(
            envvar="SHOAL_ENGINE",
            help="Implementation of k-means: auto (the default: the fastest exact one), fast, faiss or faiss-super.",
        ),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Maximum number of iterations; 50 by default.")] = None,
    restarts: Annotated[
        int | None,
        typer.Option(help="Runs per seed, of which the tightest is kept; by default 1 to 16, by the time they take."),
    ] = None,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Random seed; repeatable. 0, 1 and 2 by default if there are labels, else 0."),
    ] = None,
    label_map: Annotated[
        str | None,
        typer.Option(help="Rows that decide which class a cluster stands for: train (the default) or scored."),
    ] = None,
    spherical: Annotated[
        bool, typer.Option(help="Cluster by cosine similarity, with centroids of unit length.")
    ] = False,
    balanced: Annotated[
        float | None, typer.Option(help="Maximum size of a cluster as a multiple of the average size, such as 1.2.")
    ] = None,
    level: Annotated[
        list[int] | None,
        typer.Option(help="Also group the clusters into this many groups; repeatable, in descending order."),
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Maximum memory of the job, such as 4GiB; a quarter of the machine's by default.")
    ] = None,
    execution: Engine = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    worker_cpus: WorkerCpus = None,
    worker_gpus: WorkerGpus = None,
    worker_memory: WorkerMemory = None,
    callback_url: CallbackUrl = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Cluster embeddings and print the id of the clustering."""
    if clusters is not None and over is not None:
        raise InvalidRequest(TWO_CLUSTERS)
    if clusters is None and over is None and not counts_itself(method):
        raise InvalidRequest(NO_CLUSTERS)
    kmeans = given(
        engine=engine, iterations=iterations, restarts=restarts, spherical=spherical, balanced=balanced, levels=level
    )
    with errors_in_flags(CLUSTER), Client() as client:
        job = client.cluster(
            {"train": embeddings, "score": score} if score else embeddings,
            where=where_of(where_label, where_path, where_clusters, where_no_duplicates),
            clusters=clusters,
            over=over,
            pca={"components": pca, "whiten": whiten} if pca or whiten else None,
            normalize=normalize,
            reduce=None if reduce == "none" else reduce,
            kmeans=kmeans,
            method=method,
            heads=heads_of(head),
            graph=graph_of(graph),
            spaces=spaces_of(space),
            seeds=seed or None,
            label_map=label_map,
            memory_limit=memory_limit,
            execution=execution_of(execution, ray_address, workers, worker_cpus, worker_gpus, worker_memory),
            callback_url=callback_url,
        )
        finish(client, job, wait, as_json)


def given(**options: Any) -> dict[str, Any] | None:
    """The options that the user set, or None. Flags that are off and empty lists are not set."""
    kept = {name: value for name, value in options.items() if value is not None and value is not False and value != []}
    return kept or None


def list_jobs(
    state: Annotated[
        str | None, typer.Option(help="List only jobs in this state: queued, running, succeeded, failed or cancelled.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="List only jobs of this kind: extract:torch, extract:tfserving, cluster, sweep or assign."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Maximum number of jobs.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    with Client() as client:
        page = client.jobs(state=state, kind=kind, limit=limit)
    if as_json:
        typer.echo(page.model_dump_json(indent=2))
    else:
        out.print(jobs_table(page.jobs))


def watch(
    job_id: Annotated[
        str | None, typer.Argument(help="Id of the job; the newest running or queued one by default.")
    ] = None,
) -> None:
    """Show the progress of a job until it ends."""
    with Client() as client:
        job = client.job(job_id) if job_id else _newest_live(client)
        finish(client, job, wait=True)


def cancel(job_id: Annotated[str, typer.Argument(help="Id of the job.")]) -> None:
    """Cancel a job."""
    with Client() as client:
        job = client.cancel(job_id)
    err.print(f"{job.id} is {'being cancelled' if not job.state.terminal else job.state}.")


def _newest_live(client: Client) -> Job:
    for state in ("running", "queued"):
        jobs = client.jobs(state=state, limit=1).jobs
        if jobs:
            return jobs[0]
    raise JobNotFound("No job is running or queued. `shoal jobs` lists ended jobs.")
