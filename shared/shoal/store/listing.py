"""Listing what a store holds, although some of it is damaged: one damaged set never hides the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from shoal.errors import NotFound, ShoalError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Entry(Generic[T_co]):
    """Something in a store.

    Attributes
    ----------
    kind
        ``embeddings``, ``clustering``, ``sweep``, ``assignments``, ``duplicates`` or ``quality``.
    item
        The opened set or result; None where it is damaged and ``error`` says how.
    """

    kind: str
    id: str
    item: T_co | None
    error: ShoalError | None = None


def open_each(kind: str, ids: Iterable[str], open_: Callable[[str], T]) -> Iterator[Entry[T]]:
    """Open each id; one that is deleted between the listing and its opening is left out."""
    for each in ids:
        try:
            yield Entry(kind, each, open_(each))
        except NotFound:
            continue
        except ShoalError as error:
            yield Entry(kind, each, None, error)


def describe_all(
    ids: Iterable[str], open_: Callable[[str], T], describe: Callable[[T], dict[str, Any]]
) -> list[dict[str, Any]]:
    """The list that the APIs return of embeddings or of results.

    Each entry is what ``describe`` returns; for a damaged one, ``id``, ``damaged: true`` and the ``problem`` that the
    route of that id answers.
    """
    listed = []
    for entry in open_each("", ids, lambda each: describe(open_(each))):
        damaged = {"damaged": True, "problem": entry.error.problem()} if entry.error else {}
        listed.append(entry.item or {"id": entry.id, **damaged})
    return listed
