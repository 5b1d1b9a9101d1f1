"""Images that have no embedding: how many may fail before a job does, and what a job says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shoal.errors import TooManyFailures
from shoal.store import EmbeddingSet

NAMED = 5
"""How many files the error names."""
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that has no embedding."""

    image_path: str
    code: str
    message: str = ""


def account(embeddings: EmbeddingSet) -> dict[str, Any]:
    """What became of the files that have no embedding, as fields of a job's result.

    Returns
    -------
    dict
        ``failed_by_code``: of the images that could not be embedded, ``code``, ``count`` and ``examples``, most first.
        ``not_taken`` and ``source``: what was left out of the listing, and how its folders were read.
    """
    rows = embeddings.errors().to_pylist() if embeddings.failed else []
    by_code: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_code.setdefault(row["code"], []).append({"image_path": row["image_path"], "message": row["message"]})
    failed = [
        {"code": code, "count": len(found), "examples": found[:EXAMPLES]}
        for code, found in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    unknown: dict[str, Any] = {
        "splits": [],
        "wrapper": None,
        "labels": None,
        "message": "The listing is of an older version of Shoal.",
    }
    notes = embeddings.notes
    return {
        "failed_by_code": failed,
        "not_taken": notes.get("not_taken", []),
        "source": notes.get("source", unknown),
    }


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
        self._first = [Failure(row["image_path"], row["code"], row["message"]) for row in committed]

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
        told = next((failure for failure in self._first if failure.message), None)
        why = f" Of {told.image_path}: {told.message}" if told else ""
        raise TooManyFailures(
            f"{self._failed} of {self._total} images ({self._failed / self._total:.1%}) cannot be embedded, more than "
            f"`max_failed_fraction` = {self._fraction:g} allows. The first: {first}.{why} Mend or remove them, or "
            "submit the request with a larger `max_failed_fraction`: it goes on from the shards committed so far.",
            embeddings=self._id,
            failed=self._failed,
            total=self._total,
        )
