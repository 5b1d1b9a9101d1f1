"""Who watches a worker: nothing by default, metrics where they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shoal.jobs.protocol import Event
    from shoal.jobs.queue import Claim


class Observer:
    """Told what happens to a worker's jobs; this one ignores it."""

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""

    def heard(self, claim: Claim, events: Sequence[Event]) -> None:
        """The child said something."""

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over: ``succeed``, ``fail``, ``cancelled``, ``hand_back`` or ``lost``."""


class Observers(Observer):
    """Tells several."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def started(self, claim: Claim) -> None:
        """A child was started for the claim."""
        for observer in self._observers:
            observer.started(claim)

    def heard(self, claim: Claim, events: Sequence[Event]) -> None:
        """The child said something."""
        for observer in self._observers:
            observer.heard(claim, events)

    def ended(self, claim: Claim, how: str) -> None:
        """The attempt is over."""
        for observer in self._observers:
            observer.ended(claim, how)
