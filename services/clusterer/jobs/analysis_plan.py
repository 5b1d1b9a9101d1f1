"""Requests of analyses checked against the store. Shared by API and worker."""

from __future__ import annotations

from shoal.errors import DimensionMismatch, InvalidRequest
from shoal.schemas import DuplicatesRequest, QualityRequest
from shoal.store import EmbeddingSet, Store

from clusterer.jobs.sets import open_complete


def sets_of(store: Store, request: DuplicatesRequest) -> tuple[EmbeddingSet, ...]:
    """The set whose duplicates are sought, then the one that stays as it is, if there is one.

    Raises
    ------
    EmbeddingsNotFound, EmbeddingsIncomplete
        A set does not exist, or is not finished.
    DimensionMismatch, InvalidRequest
        The two sets are not of the same model.
    """
    own = open_complete(store, request.embeddings)
    if request.against is None:
        return (own,)
    other = open_complete(store, request.against)
    if own.dim != other.dim:
        raise DimensionMismatch(
            f"Embeddings {other.id!r} have {other.dim} dimensions, but {own.id!r} have {own.dim}. Compare embeddings "
            "of the same model.",
            field="against",
            expected=own.dim,
            got=other.dim,
        )
    if own.plan.model.digest != other.plan.model.digest:
        raise InvalidRequest(
            f"Embeddings {other.id!r} are of the model {other.plan.model.name!r}, but {own.id!r} are of "
            f"{own.plan.model.name!r} or of another checkpoint of it. Compare embeddings of the same model.",
            field="against",
        )
    return own, other


def set_of(store: Store, request: QualityRequest) -> EmbeddingSet:
    """The set that is checked.

    Raises
    ------
    EmbeddingsNotFound, EmbeddingsIncomplete
        It does not exist, or is not finished.
    """
    return open_complete(store, request.embeddings)
