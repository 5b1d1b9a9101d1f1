"""How far an extraction is, with what all its workers have embedded."""

from __future__ import annotations

from shoal.errors import JsonValue
from shoal.jobs.child import JobContext
from shoal.jobs.sharing import OPEN
from shoal.store import EmbeddingSet

from extractor.stream.busy import Stages
from extractor.stream.shards import Shards
from extractor.stream.sink import ShardSink


class EmbedProgress:
    """Reports progress of the stage `embed`: of a job its images, of a helper the shards that it is at.

    Parameters
    ----------
    embeddings
        The set as it was when the worker began.
    """

    def __init__(
        self, ctx: JobContext, embeddings: EmbeddingSet, shards: Shards, sink: ShardSink, stages: Stages
    ) -> None:
        self._ctx = ctx
        self._before = embeddings.rows + embeddings.failed
        self._total = embeddings.plan.source.count
        self._shards, self._sink, self._stages = shards, sink, stages
        self._most = 0

    def report(self) -> None:
        """Report it.

        Raises
        ------
        Cancelled
            The job was cancelled.
        TooManyFailures
            Of the images of other workers.
        """
        self._shards.look()
        done = self._before + self._sink.done + self._shards.done + self._shards.under_way()
        # Between a commit of another worker and the next look, its images are in neither count.
        self._most = max(self._most, min(done, self._total))
        detail: dict[str, JsonValue] = self._stages.detail()
        if self._ctx.helper:
            detail[OPEN] = {str(shard): done for shard, done in self._sink.open().items()}
        self._ctx.progress("embed", self._most, self._total, "images", detail)
