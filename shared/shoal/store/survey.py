"""Looking at everything in a store although some of it is damaged: one bad set never hides the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from shoal.errors import NotFound, ShoalError
from shoal.store.layout import is_id

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """Something in a store.

    Attributes
    ----------
    kind
        ``embeddings``, ``clustering`` or ``sweep``.
    item
        What the store opens under the id; None where ``error`` says why it cannot be opened.
    """

    kind: str
    id: str
    item: Any
    error: ShoalError | None = None


def ids_in(folder: Path) -> list[str]:
    """Names of the folders below ``folder`` that are ids, sorted; those of damaged things too."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if is_id(entry.name) and entry.is_dir())
    except FileNotFoundError:
        return []


def strays_in(folder: Path) -> list[str]:
    """Names of what lies below ``folder`` and is no folder, sorted; hidden files are left out."""
    try:
        return sorted(each.name for each in folder.iterdir() if not each.name.startswith(".") and not each.is_dir())
    except FileNotFoundError:
        return []


def survey(kind: str, ids: Iterable[str], open_: Callable[[str], Any]) -> Iterator[Entry]:
    """Each id opened; what is deleted between the listing and the look at it is left out."""
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
    """A list of the store's things as the APIs show it.

    Each is what ``describe`` says of it, or for a damaged one ``id``, ``damaged: true`` and the ``problem``, as the
    route of that one thing answers it.
    """
    found = survey("", ids, lambda each: describe(open_(each)))
    return [
        entry.item if entry.error is None else {"id": entry.id, "damaged": True, "problem": entry.error.problem()}
        for entry in found
    ]
