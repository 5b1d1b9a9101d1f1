"""Which shards a worker embeds, while other workers, or other jobs, embed others of the same set."""

from __future__ import annotations

import time
from collections.abc import Callable

from shoal.errors import EmbeddingsNotFound
from shoal.jobs.child import JobContext
from shoal.jobs.sharing import worker_of
from shoal.store import EmbeddingSet
from shoal.store.commits import committed_shards, read_commit

LOOK_S = 2.0
"""How often the store is asked which shards others have committed, seconds."""
WAIT_S = 0.5
"""Pause between two looks while others finish the last shards."""


class Shards:
    """The missing shards of a set, taken one by one, from the first to the last.

    Parameters
    ----------
    ctx
        The job: who else works on it, and on which shards.
    embeddings
        The set as it was when the worker began.
    most
        How many workers may share the job; None for any number.
    failed
        Called with the number of failed images of each shard that another worker has committed.

    Attributes
    ----------
    done
        Images of the shards that others have committed since.
    """

    def __init__(
        self, ctx: JobContext, embeddings: EmbeddingSet, most: int | None, failed: Callable[[int], None]
    ) -> None:
        self._ctx = ctx
        self._plan, self._layout = embeddings.plan, embeddings.layout
        self._most = most
        self._failed = failed
        self._missing = set(embeddings.missing_shards())
        self._own: set[int] = set()
        self._ahead: int | None = None
        self._looked_at = 0.0
        self._others: set[str] = set()
        self.done = 0

    @property
    def workers(self) -> int:
        """How many workers have embedded images since this one began, with this one."""
        return len({worker_of(self._ctx.owner), *self._others})

    def take(self) -> int | None:
        """The next shard for this worker, whose first images it reads now; None when there is none."""
        if self._ahead is not None:
            ahead, self._ahead = self._ahead, None
            return ahead
        while True:
            self.look(at_once=True)
            shard = self._ctx.take(sorted(self._missing - self._own), self._most).unit
            if shard is None:
                return None
            self._own.add(shard)
            # It may have been committed between the look and the answer.
            commit = self._layout.commit(shard)
            self._layout.refresh(commit)
            if not self._layout.has(commit):
                return shard
            self._own.remove(shard)

    def wait(self, report: Callable[[], None]) -> bool:
        """Wait until others have committed what they are at; true when a shard is left to this worker instead.

        Parameters
        ----------
        report
            Called at each look; may raise.
        """
        while True:
            self._ahead = self.take()
            if self._ahead is not None:
                return True
            if not self._missing - self._own:
                return False
            report()
            time.sleep(WAIT_S)

    def look(self, *, at_once: bool = False) -> None:
        """See which shards others have committed, if the last look was a while ago.

        Raises
        ------
        EmbeddingsNotFound
            The set was deleted.
        """
        if not at_once and time.monotonic() - self._looked_at < LOOK_S:
            return
        self._looked_at = time.monotonic()
        try:
            for shard in self._missing.intersection(committed_shards(self._layout)):
                self._missing.remove(shard)
                if shard not in self._own:
                    commit = read_commit(self._layout, shard)
                    self.done += commit.stop - commit.start
                    self._others.add(worker_of(commit.owner))
                    self._failed(commit.failed)
        except FileNotFoundError:
            raise EmbeddingsNotFound(f"{self._layout.folder.name} was deleted while it was written.") from None

    def under_way(self) -> int:
        """Images that others have embedded of shards that they have not committed yet."""
        others = self._ctx.others()
        return sum(done for shard, done in others.items() if shard in self._missing and shard not in self._own)
