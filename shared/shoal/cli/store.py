"""`shoal ls`, `show` and `rm`: the contents of the store, read without a running service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from shoal.cli.flags import AsJson, StoreRoot
from shoal.cli.output import columns_of, err, metrics_table, out, print_table
from shoal.cli.summary import reasons
from shoal.cli.sweep import sweep_table
from shoal.client import Client
from shoal.embedded import open_queue
from shoal.errors import EmbeddingsInUse, NotFound, ShoalError, Unavailable
from shoal.gc import texts_of
from shoal.jobs.queue import JobQueue
from shoal.schemas import RESULTS
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.analyses import ANALYSES, Analysis
from shoal.store.assigned import AssignedSet
from shoal.store.clustering import Clustering
from shoal.store.layout import EmbeddingsLayout, SealedLayout, SweepLayout
from shoal.store.sweeps import Sweep

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of the store.

    Attributes
    ----------
    id, kind
        ``kind`` is embeddings, clustering, sweep, assignments, duplicates or quality.
    facts
        Rows, clusters or points; or what is damaged.
    at
        When its last file was written.
    """

    id: str
    kind: str
    facts: str
    at: datetime


def ls(store: StoreRoot = None, as_json: AsJson = False) -> None:
    """List the embeddings and results in the store. Needs no running service."""
    opened = _open(store)
    found = sorted(entries(opened), key=lambda entry: entry.at, reverse=True)
    if as_json:
        rows = [{"id": each.id, "kind": each.kind, "facts": each.facts, "at": each.at.isoformat()} for each in found]
        typer.echo(json.dumps(rows, indent=2))
        return
    if not found:
        err.print(f"The store {opened.root.resolve()} is empty: `shoal run FOLDER` fills it.", highlight=False)
        return
    table = columns_of("id", "kind", "written", "description")
    for each in found:
        table.add_row(each.id, each.kind, f"{each.at.astimezone():%Y-%m-%d %H:%M}", each.facts)
    print_table(table)


def rm(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids, from `shoal ls`.")], store: StoreRoot = None
) -> None:
    """Remove embeddings or results from the store, unless an unfinished job uses them."""
    opened = _open(store)
    by_id = {entry.id: entry for entry in entries(opened)}
    unknown = [each for each in ids if each not in by_id]
    if unknown:
        raise NotFound(f"{_not_found(unknown[0], opened)} Nothing was removed.")
    _refuse_used(opened, ids)
    remove: dict[str, Callable[[str], None]] = {
        "embeddings": opened.delete_embeddings,
        "clustering": opened.delete_clustering,
        "sweep": opened.delete_sweep,
        "assignments": opened.delete_assigned,
        **{name: partial(opened.delete_analysis, kind) for name, kind in ANALYSES.items()},
    }
    for each in dict.fromkeys(ids):
        remove[by_id[each].kind](each)
        err.print(f"Removed the {by_id[each].kind} {each}.", highlight=False)


def show(
    which: Annotated[str, typer.Argument(metavar="ID", help="Id of embeddings, a result or a job.")],
    store: StoreRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show a clustering's metrics, a sweep's table, or the facts of anything else in the store or of a job.

    Reads the local store first, then asks the services.
    """
    opened = _open(store)
    found = local(opened, which)
    if found is None:
        found = _asked(opened, which)
    facts, table = found
    if as_json or table is None:
        out.print_json(json.dumps(facts))
    else:
        out.print(table)
        for reason in reasons(facts):
            out.print(reason, markup=False, highlight=False)


def entries(store: Store) -> Iterator[Entry]:
    """Everything in ``store``, including damaged items."""
    places: dict[str, Callable[[str], Any]] = {
        "embeddings": store.layout.embeddings,
        "clustering": store.layout.clustering,
        "sweep": store.layout.sweep,
        "assignments": store.layout.assigned,
        **{name: partial(store.layout.analysis, name) for name in ANALYSES},
    }
    lines: dict[str, Callable[[Any], str]] = {
        "embeddings": _embeddings_line,
        "clustering": _clustering_line,
        "sweep": _sweep_line,
        "assignments": _assigned_line,
        **dict.fromkeys(ANALYSES, _analysis_line),
    }
    for found in store.entries():
        try:
            facts = f"damaged: {found.error}" if found.error else lines[found.kind](found.item)
        except NotFound:
            continue  # Removed since it was listed.
        except (ShoalError, KeyError, TypeError, ValueError, OSError) as error:
            facts = f"damaged: {error}"
        with suppress(OSError):
            yield Entry(found.id, found.kind, facts, _written(places[found.kind](found.id)))


def local(store: Store, which: str) -> tuple[Json, Table | None] | None:
    """Facts and table of the item ``which`` of ``store``; None if it is not there."""
    if which in store.clustering_ids():
        clustering = store.clustering(which)
        metrics = clustering.metrics()
        return {**clustering.spec, **clustering.run(), "metrics": metrics}, clustering_table(
            which, {**clustering.spec, **clustering.run()}, metrics
        )
    if which in store.sweep_ids():
        sweep = store.sweep(which)
        rows = sweep.table()
        facts = {**sweep.spec, "id": which, "complete": sweep.complete, "table": rows}
        title = f"{which}: {len(sweep.finished_points())} of {sweep.total} points"
        return facts, sweep_table(rows, title) if rows else None
    if which in store.assigned_ids():
        assigned = store.assigned(which)
        return {"id": which, **assigned.spec, **assigned.run(), "drift": assigned.drift()}, None
    for kind in ANALYSES.values():
        if which in store.analysis_ids(kind):
            analysis = store.analysis(kind, which)
            return {"id": which, **analysis.spec, **analysis.run()}, None
    if which in store.embeddings_ids():
        return store.embeddings(which).summary(), None
    return None


def clustering_table(which: str, facts: Json, metrics: Json) -> Table:
    """A clustering's metrics under a title with its parameters."""
    by = facts.get("method") or facts["engine"]
    after = f" after {facts['reduce']['method']}" if facts.get("reduce") else ""
    title = f"{which}: k = {facts['k']}, n = {facts['n']:,}, {by}{after}, seeds {facts['seeds']}"
    return metrics_table(metrics, title)


def _asked(store: Store, which: str) -> tuple[Json, Table | None]:
    """Facts and table of ``which`` from the services."""
    try:
        with Client(retries=0) as client:
            return _of_service(client, store, which)
    except Unavailable as error:
        raise NotFound(f"{_not_found(which, store)} The services cannot be asked either: {error.detail}") from None
    except NotFound:
        raise NotFound(f"{_not_found(which, store)} The services have no job or result of that id either.") from None


def _of_service(client: Client, store: Store, which: str) -> tuple[Json, Table | None]:
    with suppress(NotFound):
        job = client.job(which)
        result = job.result or {}
        made = next((result[each] for each in RESULTS if each != "embeddings" and result.get(each)), None)
        if not made:
            return job.model_dump(mode="json"), None
        which = str(made)
        if (found := local(store, which)) is not None:
            return found
    with suppress(NotFound):
        metrics = client.metrics(which)
        facts = client.clustering(which)
        return {**facts, "metrics": metrics}, clustering_table(which, facts, metrics)
    with suppress(NotFound):
        facts = client.sweep_facts(which)
        points = facts["points"]
        title = f"{which}: {points['finished']} of {points['total']} points"
        return facts, sweep_table(facts["table"], title) if facts["table"] else None
    with suppress(NotFound):
        return client.assigned(which), None
    for kind in ANALYSES:
        with suppress(NotFound):
            return client.analysis(kind, which), None
    return dict(client.embeddings(which)), None


def _embeddings_line(found: EmbeddingSet) -> str:
    unfinished = "" if found.complete else f", {len(found.missing_shards())} of {found.plan.shards} shards missing"
    failed = f", {found.failed:,} images failed" if found.failed else ""
    source = f", from {found.plan.source.path}"
    return f"{found.rows:,} rows x {found.dim}, {found.plan.model.name}{source}{failed}{unfinished}"


def _clustering_line(clustering: Clustering) -> str:
    spec = clustering.spec
    return f"k = {spec['k']}, n = {spec['n']:,}, of {spec['train']}"


def _sweep_line(sweep: Sweep) -> str:
    return f"{len(sweep.finished_points())} of {sweep.total} points"


def _assigned_line(assigned: AssignedSet) -> str:
    spec = assigned.spec
    return f"{spec['rows']:,} rows of {spec['embeddings']}, in {spec['clustering']}"


def _analysis_line(found: Analysis) -> str:
    counted = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.spec["totals"].items())
    return f"{counted}, of {' and '.join(found.sets)}"


def _written(place: EmbeddingsLayout | SealedLayout | SweepLayout) -> datetime:
    if isinstance(place, EmbeddingsLayout):
        newest = place.changed(place.folder)
        if not newest:
            raise FileNotFoundError(place.address)  # Removed since it was listed.
    else:
        newest = max(entry.stat().st_mtime for entry in [place.folder, *place.folder.iterdir()])
    return datetime.fromtimestamp(newest, UTC)


def _refuse_used(store: Store, ids: list[str]) -> None:
    """Refuse to remove what an unfinished job reads or fills.

    Raises
    ------
    EmbeddingsInUse
        Names the job.
    """
    with open_queue(store.root, "shoal rm") as url:
        if url is None:
            return
        with closing(JobQueue.from_url(url, lease_s=Settings().lease_s)) as queue:
            jobs = queue.unfinished()
    for job in jobs:
        named = set(texts_of(job.request))
        for each in ids:
            if not named.isdisjoint((each, *_filled_from(store, each))):
                raise EmbeddingsInUse(
                    f"Job {job.id} ({job.kind}, {job.state}) uses {each}. Wait for it, or cancel it with "
                    f"`shoal cancel {job.id}`. Nothing was removed."
                )


def _filled_from(store: Store, embeddings_id: str) -> list[str]:
    """The source of incomplete embeddings: a job that embeds it may be filling them."""
    with suppress(ShoalError):
        found = store.embeddings(embeddings_id)
        return [] if found.complete else [found.plan.source.path]
    return []


def _open(store: Path | None) -> Store:
    return Store.of(Settings(), store)


def _not_found(which: str, store: Store) -> str:
    return f"{which!r} is not in the store {store.root.resolve()}; `shoal ls` lists its contents."
