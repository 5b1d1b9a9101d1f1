"""A request of `POST /assign` checked against the store. Shared by API and worker."""

from __future__ import annotations

from dataclasses import dataclass

from shoal.errors import DimensionMismatch, InvalidRequest, ModelChanged
from shoal.schemas import AssignRequest
from shoal.schemas.execution import on_cluster
from shoal.store import EmbeddingSet, ModelRecord, Store
from shoal.store.clustering import Clustering

from clusterer.jobs.aligned import Aligned, require_aligned
from clusterer.jobs.sets import how_many_rows, open_complete
from clusterer.results.loaded import Space, spaces_of, transform_change


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
        The embeddings have no rows, or there are more or fewer than the clustering has models.
    SetsNotAligned
        Those of several models are of other images, or in another order.
    """
    clustering = store.clustering(request.clustering)
    sets = tuple(open_complete(store, each) for each in (request.embeddings, *(request.spaces or ())))
    spaces = tuple(spaces_of(store, clustering))
    _require_spaces(clustering, len(spaces), len(sets))
    _require_in_process(request, clustering)
    for field, space, each in zip(("embeddings", *["spaces"] * len(sets)), spaces, sets, strict=False):
        if each.dim != space.dim:
            raise DimensionMismatch(
                f"Embeddings {each.id!r} have {each.dim} dimensions, but those of clustering {clustering.id!r} have "
                f"{space.dim}. Send embeddings of the same model.",
                field=field,
                expected=space.dim,
                got=each.dim,
            )
        _require_same_model(clustering, space, each, field)
    require_aligned(sets)
    embeddings = sets[0] if len(sets) == 1 else Aligned(*sets)
    if not embeddings.rows:
        raise InvalidRequest(
            f"Embeddings {embeddings.id!r} {how_many_rows(embeddings)}: there is nothing to assign.",
            field="embeddings",
            rows=0,
        )
    return AssignPlan(request, clustering, embeddings)


def _require_spaces(clustering: Clustering, needed: int, sent: int) -> None:
    if needed == sent:
        return
    remedy = "leave `spaces` out" if needed == 1 else f"send `embeddings` and {needed - 1} more in `spaces`"
    raise InvalidRequest(
        f"Clustering {clustering.id!r} is of the embeddings of {needed} model{'s' if needed > 1 else ''}, but "
        f"{sent} were sent: {remedy}, in the order of the clustering's.",
        field="spaces",
        spaces=needed,
    )


def _require_in_process(request: AssignRequest, clustering: Clustering) -> None:
    if on_cluster(request.execution) and (clustering.spec.get("reduce") or clustering.by_graph):
        raise InvalidRequest(
            f"Clustering {clustering.id!r} places rows by the rows of its train set, which one process compares them "
            "with. Leave `execution` out.",
            field="execution",
        )
    if on_cluster(request.execution) and (clustering.by_head or request.spaces):
        raise InvalidRequest(
            f"Clustering {clustering.id!r} is by a head or of several models, which one process assigns. Leave "
            "`execution` out.",
            field="execution",
        )


def _require_same_model(clustering: Clustering, space: Space, embeddings: EmbeddingSet, field: str) -> None:
    """Raise `ModelChanged` where both models are known and differ, or both transforms are."""
    theirs = embeddings.plan.model
    ours = ModelRecord.model_validate(space.model) if space.model else None
    if ours is None or "import" in {ours.backend, theirs.backend}:
        return
    change = transform_change(space.image_transform, embeddings.plan.transform)
    why = None if change is None else f"of their images' transform, {change}"
    if ours.digest != theirs.digest:
        why = f"they are of the model `{theirs.name}`, not of `{ours.name}`"
        if ours.name == theirs.name:
            why = f"the weights or the settings of the model `{ours.name}` were others"
    if why is not None:
        raise ModelChanged(
            f"Embeddings {embeddings.id!r} are not like those of clustering {clustering.id!r}: {why}. Extract the "
            "images with the model and the transform of the clustered ones.",
            field=field,
            model=ours.name,
        )
