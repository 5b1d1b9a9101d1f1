"""How k-means converged."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field
from shoal.web import StoreDep
from shoal.web.problems import problem_responses
from shoal.web.route import router as make_router

from clusterer.api.parameters import ClusteringId
from clusterer.results.read import list_iterations

router = make_router(tags=["clusterings"])


class Iteration(BaseModel):
    """One iteration of k-means, or one check of a head in training."""

    seed: int
    restart: int = Field(description="Number of the run.")
    iteration: int = Field(description="Number of the iteration, from 1; of a head number of the step.")
    inertia: float | None = Field(description="Sum of squared distances to the centroids; null for a head.")
    moved: int = Field(description="Rows that changed their cluster; of a head among at most 10,000 rows.")
    empty: int = Field(description="Clusters that were empty and got a new centroid; of a head those without rows.")
    seconds: float
    loss: float | None = Field(None, description="Mean loss of a head since the entry before; null for k-means.")


class Iterations(BaseModel):
    """The iterations of each seed's best run."""

    iterations: list[Iteration]


@router.get("/clusterings/{clustering_id}/iterations", responses=problem_responses(404, 422))
def get_iterations(
    clustering_id: ClusteringId,
    store: StoreDep,
    limit: Annotated[int, Query(ge=1, le=100_000, description="Maximum number of iterations to return.")] = 10_000,
) -> Iterations:
    """List the iterations of each seed's best run, the one with the lowest inertia."""
    found = list_iterations(store.clustering(clustering_id), limit)
    return Iterations(iterations=[Iteration.model_validate(each) for each in found])
