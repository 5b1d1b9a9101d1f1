"""A request of `POST /assign` checked against the store. Shared by API and worker."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import DimensionMismatch, InvalidRequest, ModelChanged
from shoal.schemas import AssignRequest
from shoal.schemas.execution import on_cluster
from shoal.store import EmbeddingSet, ModelRecord, Store
from shoal.store.clustering import Clustering

from clusterer.jobs.sets import how_many_rows, open_complete
from clusterer.results.loaded import image_transform, transform_change


@dataclass(frozen=True)
class AssignPlan:
    """A checked request."""

    request: AssignRequest
    clustering: Clustering
    embeddings: EmbeddingSet


def plan_assign(store: Store, request: AssignRequest) -> AssignPlan:
    """Check a request against the store.

    Raises
    ------
    ClusteringNotFound, EmbeddingsNotFound, EmbeddingsIncomplete
        One of the two does not exist, or the embeddings are not finished.
    DimensionMismatch
        The embeddings have other dimensions than those that were clustered.
    ModelChanged
        They are of another model, or their images were prepared in another way.
    InvalidRequest
        The embeddings have no rows.
    """
    clustering, embeddings = store.clustering(request.clustering), open_complete(store, request.embeddings)
    expected = int(clustering.spec["dim"])
    if embeddings.dim != expected:
        raise DimensionMismatch(
            f"Embeddings {embeddings.id!r} have {embeddings.dim} dimensions, but those of clustering "
            f"{clustering.id!r} have {expected}. Send embeddings of the same model.",
            field="embeddings",
            expected=expected,
            got=embeddings.dim,
        )
    if on_cluster(request.execution) and clustering.spec.get("reduce"):
        raise InvalidRequest(
            f"Clustering {clustering.id!r} places rows by the rows of its train set, which one process compares them "
            "with. Leave `execution` out.",
            field="execution",
        )
    _require_same_model(store, clustering, embeddings)
    if not embeddings.rows:
        raise InvalidRequest(
            f"Embeddings {embeddings.id!r} {how_many_rows(embeddings)}: there is nothing to assign.",
            field="embeddings",
            rows=0,
        )
    return AssignPlan(request, clustering, embeddings)


def _require_same_model(store: Store, clustering: Clustering, embeddings: EmbeddingSet) -> None:
    """Raise `ModelChanged` where both models are known and differ, or both transforms are."""
    theirs = embeddings.plan.model
    clustered = clustering.spec.get("model")
    ours = ModelRecord.model_validate(clustered) if clustered else None
    if ours is None or "import" in {ours.backend, theirs.backend}:
        return
    change = transform_change(image_transform(store, clustering.spec.get("train")), embeddings.plan.transform)
    why = None if change is None else f"of their images' transform, {change}"
    if ours.digest != theirs.digest:
        why = f"they are of the model `{theirs.name}`, not of `{ours.name}`"
        if ours.name == theirs.name:
            why = f"the weights or the settings of the model `{ours.name}` were others"
    if why is not None:
        raise ModelChanged(
            f"Embeddings {embeddings.id!r} are not like those of clustering {clustering.id!r}: {why}. Extract the "
            "images with the model and the transform of the clustered ones.",
            field="embeddings",
            model=ours.name,
        )
