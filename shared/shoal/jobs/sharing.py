"""Several workers on one job: the places of those who help, and who works on which unit.

A job that can be shared has numbered units, such as the shards of an extraction. The worker that has the job takes its
units one by one; from the first on, idle workers of the kind may help, and take units as well. A helper has a place
with a lease of its own. Its end, good or bad, is no end of the job: what it had taken is free again.

Who works on a unit is no more than advice that saves work. What a unit's result is, the store decides.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence

from shoal.errors import JsonValue
from shoal.jobs.claims import Claim, Renewal, Taken
from shoal.jobs.redis_scripts import Scripts, fields_of, from_json, pairs, to_job, to_json
from shoal.schemas import Progress

OPEN = "open"
"""Key of a helper's progress, in its detail: how much is done of each unit that it is at."""


class Sharing:
    """The queue as helpers use it; an attempt calls the methods that `JobQueue` has under the same names.

    Parameters
    ----------
    scripts
        The scripts of the queue.
    lease_s
        Seconds after which a helper that stopped renewing loses its place.
    """

    def __init__(self, scripts: Scripts, lease_s: float) -> None:
        self._scripts = scripts
        self.lease_s = lease_s

    def assist(self, kinds: Sequence[str], owner: str, avoid: Sequence[str] = ()) -> Claim | None:
        """A place at the running job of ``kinds`` with the fewest workers that has units left.

        None when there is none, and as long as a job waits that ``owner`` could claim.

        Parameters
        ----------
        owner
            The worker's name.
        avoid
            Ids of jobs that are none for it.
        """
        token = f"{owner}.{secrets.token_hex(6)}"
        answer, *reply = self._scripts.run("assist", token, " ".join(avoid), *kinds)
        if answer == "none":
            return None
        fields = fields_of(reply[0])
        return Claim(
            job=to_job(reply[0]),
            owner=token,
            attempt=int(fields["attempt"]),
            checkpoint=from_json(fields.get("checkpoint")),
            helper=True,
        )

    def take(self, claim: Claim, missing: Sequence[int], most: int | None = None) -> Taken | None:
        """The first of the units ``missing`` that nobody else is at; None when the lease or the place is lost.

        Parameters
        ----------
        missing
            The units without a result, ascending.
        most
            How many workers may share the job; None for any number.
        """
        helper = "1" if claim.helper else ""
        spans = to_json(_spans(missing))
        answer, *unit = self._scripts.run(
            "take", claim.job.id, claim.owner, claim.attempt, helper, spans, 0 if most is None else most
        )
        if answer == "lost":
            return None
        return Taken(int(unit[0])) if answer == "unit" else Taken(held=answer == "held")

    def renew(self, claim: Claim, progress: Progress | None = None) -> Renewal:
        """Hold the place for another ``lease_s``, and say how much is done of the units that are taken."""
        units = (progress.detail or {}).get(OPEN) if progress is not None else None
        text = to_json(units) if units is not None else ""
        answer, *flags = self._scripts.run("hold", claim.job.id, claim.owner, text)
        return Renewal(held=answer == "held", cancel_requested=flags == ["1"])

    def leave(self, claim: Claim) -> bool:
        """Give the place back, with the units that have no result."""
        self._scripts.run("leave", claim.job.id, claim.owner)
        return True

    def save_checkpoint(self, claim: Claim, checkpoint: dict[str, JsonValue]) -> bool:
        """Nothing: the job's checkpoint is that of the worker that has it."""
        return True

    def advance(self, claim: Claim, mark: int) -> bool:
        """Nothing: attempts are those of the worker that has the job."""
        return True

    def succeed(self, claim: Claim, result: dict[str, JsonValue]) -> bool:
        """`leave`: the worker that has the job ends it."""
        return self.leave(claim)

    def cancelled(self, claim: Claim) -> bool:
        """`leave`."""
        return self.leave(claim)

    def fail(self, claim: Claim, problem: dict[str, JsonValue], *, retry: bool) -> bool:
        """`leave`: what fails here may succeed elsewhere, and fails there else."""
        return self.leave(claim)

    def hand_back(self, claim: Claim) -> bool:
        """`leave`."""
        return self.leave(claim)


def others_of(flat: Sequence[str]) -> dict[int, int]:
    """How much is done of each unit, as ``renew.lua`` sends it."""
    return {int(unit): int(done) for unit, done in pairs(flat)}


def worker_of(owner: str) -> str:
    """The worker's name in a claim's ``owner``."""
    return re.sub(r"\.[^.]*$", "", owner)


def _spans(units: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as first and last of each run."""
    spans: list[list[int]] = []
    for unit in units:
        if spans and unit == spans[-1][1] + 1:
            spans[-1][1] = unit
        else:
            spans.append([unit, unit])
    return spans
