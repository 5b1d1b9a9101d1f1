"""The queue as a whole: whose it is, how many jobs wait and are kept, which workers live."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from shoal.errors import OtherStore
from shoal.jobs.callbacks import Callbacks
from shoal.jobs.redis_scripts import Client, Scripts, from_micros, micros, pairs, unavailable_when_unreachable
from shoal.jobs.states import JobState

REAP_LIMIT = 100
"""Jobs that one call of a script deletes or queues again, so that the server answers others in between."""


class QueueOverview:
    """The part of `JobQueue` that concerns no single job.

    Parameters
    ----------
    client
        A synchronous redis-py client.
    scripts
        The scripts of the queue, on that client.
    store
        Id and place of the store that the jobs are of; None takes part in no check of it.
    """

    def __init__(self, client: Client, scripts: Scripts, store: str | None) -> None:
        self._client = client
        self._scripts = scripts
        self._store = store or ""
        self.callbacks = Callbacks(scripts)

    def beat(self, owner: str, kinds: Sequence[str]) -> None:
        """Record that the worker ``owner`` is alive and runs jobs of ``kinds``."""
        answer, *reply = self._scripts.run("beat", owner, "1", self._store, *kinds)
        if answer == "foreign":
            raise self._other_store(reply[0])

    def leave(self, owner: str, kinds: Sequence[str]) -> None:
        """Record that the worker ``owner`` has stopped."""
        self._scripts.run("beat", owner, "", self._store, *kinds)

    def check_store(self) -> None:
        """Raise ``OtherStore`` when the queue belongs to another store than the one that this process works on."""
        answer, *reply = self._scripts.run("store", self._store)
        if answer == "foreign":
            raise self._other_store(reply[0])

    def depths(self) -> dict[str, int]:
        """Queued jobs of each kind that has jobs."""
        reply = self._scripts.run("depths")
        return {kind: int(depth) for kind, depth in sorted(pairs(reply))}

    def counts(self) -> dict[str, int]:
        """Jobs in each state."""
        states = [state.value for state in JobState]
        return dict(zip(states, map(int, self._scripts.run("counts", *states)), strict=True))

    def workers(self) -> dict[str, datetime]:
        """Each kind that a live worker runs, with the last heartbeat."""
        latest: dict[str, datetime] = {}
        for member, at in pairs(self._scripts.run("workers")):
            latest[member.split(" ")[0]] = from_micros(at)
        return latest

    def forget(self, older_than_s: float, *, really: bool) -> int:
        """Delete jobs that ended at least ``older_than_s`` ago, before their retention is over.

        Parameters
        ----------
        really
            False only counts them.

        Returns
        -------
        int
            How many jobs.
        """
        age = micros(older_than_s)
        if not really:
            return int(self._scripts.run("forget", age, -1, ""))
        total = 0
        while forgotten := int(self._scripts.run("forget", age, REAP_LIMIT, "1")):
            total += forgotten
        return total

    def ping(self) -> None:
        """Raise ``QueueUnavailable`` unless the server answers."""
        with unavailable_when_unreachable():
            self._client.ping()

    def _other_store(self, other: str) -> OtherStore:
        theirs, ours = (text.partition(" ")[2] or text for text in (other, self._store))
        return OtherStore(
            f"The job queue belongs to another store, {theirs}; this process works on {ours}. Give each store a queue "
            "of its own (another REDIS_URL, such as another database number: redis://host:6379/1), or set "
            "SHOAL_STORE to the same store everywhere."
        )
