"""How groups are found on the graph of nearest rows, where nobody says how many there are."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, model_validator

from shoal.schemas.base import Request

GRAPH_METHODS: Final = ("leiden", "hdbscan")
"""The methods that find the number of groups themselves."""
NOISE: Final = -1
"""The cluster of rows that are in no group."""
GRAPH_TEXT: Final = "Options of `method`: `leiden` and `hdbscan`; null for their defaults."
NEIGHBOURS: Final = 15
RESOLUTION: Final = 1.0
MIN_CLUSTER_SIZE: Final = 10
"""Defaults."""
OF_LEIDEN, OF_HDBSCAN = ("resolution",), ("min_cluster_size", "min_samples")


class GraphOptions(Request):
    """Options of `method`: `leiden` and `hdbscan`."""

    neighbours: int | None = Field(
        None,
        ge=2,
        le=200,
        description="Nearest rows of each row in the graph; 15 if null, with `hdbscan` at least `min_samples`. As many "
        "vote for the group of a new row.",
    )
    resolution: float | None = Field(
        None, gt=0, le=1000, description="`leiden`: higher values give more and smaller groups; 1 if null."
    )
    min_cluster_size: int | None = Field(
        None, ge=2, le=1_000_000, description="`hdbscan`: fewest rows of a group; 10 if null. Equal rows count once."
    )
    min_samples: int | None = Field(
        None,
        ge=2,
        le=200,
        description="`hdbscan`: how near a row is to the others is its distance to the nearest of so many, itself "
        "counted; higher values make more rows noise. `min_cluster_size` if null, at most 200.",
    )

    @model_validator(mode="after")
    def _reach(self) -> GraphOptions:
        if self.neighbours is not None and self.min_samples is not None and self.neighbours < self.min_samples:
            raise ValueError("`neighbours` must be at least `min_samples`")
        return self

    def of(self, method: Literal["leiden", "hdbscan"]) -> GraphOptions:
        """These options without those of the other method."""
        others = OF_HDBSCAN if method == "leiden" else OF_LEIDEN
        return self.model_copy(update=dict.fromkeys(others))

    @property
    def gamma(self) -> float:
        """The resolution of `leiden`, as sent or by default."""
        return self.resolution or RESOLUTION

    @property
    def smallest(self) -> int:
        """The fewest rows of a group with `hdbscan`, as sent or by default."""
        return self.min_cluster_size or MIN_CLUSTER_SIZE

    @property
    def samples(self) -> int:
        """The rows that make a row dense with `hdbscan`, as sent or by default."""
        return self.min_samples or min(self.smallest, self.neighbours or 200, 200)

    def neighbour_count(self, method: str) -> int:
        """The nearest rows of each row, as sent or by default."""
        return self.neighbours or max(NEIGHBOURS, self.samples if method == "hdbscan" else 0)
