"""The callbacks of ended jobs that are still to be delivered: a record on the queue's server.

A job's end and the entry of its callback are one step of one script, so that no end is without its callback. Whoever
delivers claims a callback for a while and settles it; what is not settled in time can be claimed again. So each is
delivered at least once, whichever process dies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shoal.jobs.redis_scripts import Scripts, fields_of, micros, to_job
from shoal.schemas import Job

HOLD_S = 60.0
"""How long a claimed callback is left to its claimer: longer than any delivery takes."""
MAX_ERROR = 300
"""Characters of an error that are kept."""


@dataclass(frozen=True)
class CallbackClaim:
    """A callback that is to be delivered now.

    Attributes
    ----------
    attempt
        Counts from 1.
    """

    job: Job
    url: str
    attempt: int


class Callbacks:
    """The part of the queue that concerns callbacks.

    Parameters
    ----------
    scripts
        The scripts of the queue.
    """

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def claim(self) -> CallbackClaim | None:
        """Take the callback that has waited longest, for `HOLD_S` seconds; None when none is due."""
        answer, *reply = self._scripts.run("callback_claim", micros(HOLD_S))
        if answer == "none":
            return None
        fields = fields_of(reply[0])
        return CallbackClaim(to_job(reply[0]), fields["callback"], int(fields["callback_attempts"]))

    def delivered(self, claim: CallbackClaim) -> bool:
        """Record that the receiver has it; False when it was claimed again meanwhile."""
        return self._settle(claim, "delivered", "", 0.0)

    def retry(self, claim: CallbackClaim, error: str, delay_s: float) -> bool:
        """Record a failure; it can be claimed again after ``delay_s`` seconds."""
        return self._settle(claim, "pending", error, delay_s)

    def give_up(self, claim: CallbackClaim, error: str) -> bool:
        """Record the last failure."""
        return self._settle(claim, "dead", error, 0.0)

    def counts(self) -> dict[str, int]:
        """Callbacks that are still to be delivered, and those that were given up."""
        pending, dead = self._scripts.run("callback_counts")
        return {"pending": int(pending), "dead": int(dead)}

    def _settle(
        self, claim: CallbackClaim, state: Literal["delivered", "pending", "dead"], error: str, delay_s: float
    ) -> bool:
        reply = self._scripts.run(
            "callback_settle", claim.job.id, claim.attempt, state, error[:MAX_ERROR], micros(delay_s)
        )
        return bool(reply == ["held"])
