"""Which rows of an embeddings set are clustered."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from shoal.schemas.base import MAX_CLUSTERS, Id, Request

WHERE_TEXT = "Which rows of the train set are clustered; those of other sets in `score` are all assigned."


class WhereClusters(Request):
    """Rows that a clustering has assigned to some of its clusters."""

    clustering: Id = Field(description="Id of a clustering that has assigned the embeddings.")
    clusters: list[Annotated[int, Field(ge=-1, lt=MAX_CLUSTERS)]] = Field(
        min_length=1, max_length=10_000, fail_fast=True, description="Numbers of its clusters; -1 for noise."
    )


class Where(Request):
    """Which rows of the train set are clustered: those that meet every condition."""

    labels: list[Annotated[str, StringConstraints(max_length=1000)]] | None = Field(
        None, min_length=1, max_length=10_000, fail_fast=True, description="Rows with one of these labels."
    )
    paths: list[Annotated[str, StringConstraints(min_length=1, max_length=300)]] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Rows whose image's path matches one of these patterns, written as in `.gitignore`.",
    )
    clusters: WhereClusters | None = Field(None, description="Rows in some clusters of another clustering.")
    not_duplicates_of: Id | None = Field(
        None, description="Id of a result of `POST /duplicates`: rows that it does not say to drop."
    )

    @model_validator(mode="after")
    def _some_condition(self) -> Where:
        if all(each is None for each in (self.labels, self.paths, self.clusters, self.not_duplicates_of)):
            raise ValueError("`where` needs a condition: `labels`, `paths`, `clusters` or `not_duplicates_of`")
        return self
