"""The sweeps' routes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Response
from fastapi.responses import FileResponse
from shoal.errors import NotFound
from shoal.schemas import MAX_POINTS, Id, Job, Name, SweepRequest
from shoal.schemas.execution import cluster_address
from shoal.store.listing import describe_all
from shoal.store.sweeps import Sweep, as_csv, as_parquet
from shoal.web import DeadlineDep, IdempotencyKey, SettingsDep, StoreDep, SubmitterDep, accepted
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from clusterer.jobs.grid import plan_points

KIND = "sweep"
SweepId = Annotated[Id, Path(description="Id of the sweep.")]
PlotName = Annotated[Name, Path(description="Name of the plot.")]
PlotType = Annotated[Literal["svg", "png"], Path(description="File format of the plot.")]
PLOT_TYPES = {"svg": "image/svg+xml", "png": "image/png"}

router = make_router(tags=["sweeps"])


@router.post("/sweep", status_code=202, responses=problem_responses(404, 409, 422, 503))
def sweep(
    body: SweepRequest,
    response: Response,
    submitter: SubmitterDep,
    store: StoreDep,
    settings: SettingsDep,
    deadline: DeadlineDep,
    key: IdempotencyKey = None,
) -> Job:
    """Start a job that clusters and scores every combination of the lists in the request."""
    cluster_address(body.execution, settings)
    check = partial(plan_points, store, body, settings.data, deadline=deadline)
    return accepted(submitter.submit(KIND, body, key, check), response)


@router.get("/sweeps")
def list_sweeps(store: StoreDep) -> dict[str, list[dict[str, Any]]]:
    """List all sweeps, newest first. A sweep appears when its job starts.

    A damaged one has only `id`, `damaged` and `problem`.
    """
    return {"sweeps": describe_all(store.sweep_ids(), store.sweep, _facts)}


@router.get("/sweeps/{sweep_id}", responses=problem_responses(404, 422))
def get_sweep(
    sweep_id: SweepId,
    store: StoreDep,
    format: Annotated[Literal["json", "csv", "parquet"], Query(description="Format of the table.")] = "json",  # noqa: A002
) -> Any:
    """Return the finished points of a sweep as a table.

    It has one row per point and scored set, with mean and deviation over the seeds.
    """
    found = store.sweep(sweep_id)
    rows = found.table()
    if format == "json":
        return {**_facts(found), "table": rows}
    content, kind = (as_csv(rows), "text/csv; charset=utf-8") if format == "csv" else (as_parquet(rows), None)
    headers = {"Content-Disposition": f'attachment; filename="{sweep_id}.{format}"'}
    return Response(content, media_type=kind or "application/vnd.apache.parquet", headers=headers)


@router.get("/sweeps/{sweep_id}/points/{point}", responses=problem_responses(404, 422))
def get_point(
    sweep_id: SweepId,
    point: Annotated[int, Path(ge=0, le=MAX_POINTS, description="Number of the point, from 0.")],
    store: StoreDep,
) -> dict[str, Any]:
    """Return a point of a sweep.

    It has the metrics of every seed, and the `POST /cluster` request that reproduces it.
    """
    for found in store.sweep(sweep_id).points():
        if found["index"] == point:
            return found
    raise NotFound(f"Sweep {sweep_id!r} has no finished point {point}.")


@router.get(
    "/sweeps/{sweep_id}/plots/{name}.{extension}", response_class=FileResponse, responses=problem_responses(404, 422)
)
def get_plot(sweep_id: SweepId, name: PlotName, extension: PlotType, store: StoreDep) -> FileResponse:
    """Return a plot of a sweep. `GET /sweeps/{sweep_id}` lists the names."""
    found = store.sweep(sweep_id)
    if name not in found.plots():
        plots = ", ".join(found.plots())
        there = f"Its plots: {plots}." if plots else "Plots are drawn when all points are finished."
        raise NotFound(f"Sweep {sweep_id!r} has no plot {name!r}. {there}")
    return FileResponse(found.layout.plot(name, extension), media_type=PLOT_TYPES[extension])


@router.delete("/sweeps/{sweep_id}", status_code=204, responses=problem_responses(404, 422))
def delete_sweep(sweep_id: SweepId, store: StoreDep) -> None:
    """Delete a sweep with all its points and plots."""
    store.delete_sweep(sweep_id)


def _facts(found: Sweep) -> dict[str, Any]:
    base = f"/sweeps/{found.id}"
    plots = {name: f"{base}/plots/{name}.svg" for name in found.plots()}
    return {
        "id": found.id,
        "complete": found.complete,
        "points": {"total": found.total, "finished": len(found.finished_points())},
        **found.run(),
        "request": found.spec["request"],
        "plots": plots,
        "links": {"self": base, "csv": f"{base}?format=csv", "parquet": f"{base}?format=parquet"},
    }
