"""How many images may fail before a job does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shoal.errors import TooManyFailures
from shoal.store import EmbeddingSet

NAMED = 5
"""How many files the error names."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that has no embedding."""

    image_path: str
    code: str


class Tolerance:
    """Counts failures, those of shards that earlier attempts committed included.

    Parameters
    ----------
    max_failed_fraction
        Of all images of the plan.
    embeddings
        What is committed so far.
    """

    def __init__(self, max_failed_fraction: float, embeddings: EmbeddingSet) -> None:
        self._fraction = max_failed_fraction
        self._id = embeddings.id
        self._total = embeddings.plan.source.count
        self._failed = embeddings.failed
        committed = embeddings.errors().slice(0, NAMED).to_pylist() if embeddings.failed else []
        self._first = [Failure(row["image_path"], row["code"]) for row in committed]

    def count(self, failures: Sequence[Failure]) -> None:
        """Add failures; stop as soon as even a faultless rest could not bring the fraction down again.

        Raises
        ------
        TooManyFailures
            Names the count, the fraction and the first files.
        """
        self._failed += len(failures)
        self._first.extend(failures[: NAMED - len(self._first)])
        self.check()

    def check(self) -> None:
        """Raise `TooManyFailures` when too many failed already."""
        if self._failed <= self._fraction * self._total:
            return
        first = ", ".join(f"{failure.image_path} ({failure.code})" for failure in self._first)
        raise TooManyFailures(
            f"{self._failed} of {self._total} images ({self._failed / self._total:.1%}) cannot be embedded, more than "
            f"`max_failed_fraction` = {self._fraction:g} allows. The first: {first}. Mend or remove them, or submit "
            "the request with a larger `max_failed_fraction`: it goes on from the shards committed so far.",
            embeddings=self._id,
            failed=self._failed,
            total=self._total,
        )
