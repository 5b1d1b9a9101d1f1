"""A queue whose clock the tests move."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import redis
from shoal.jobs.queue import JobQueue

LEASE_S = 10.0
RETENTION_S = 1000.0
BACKOFF_S = 4.0


class Bench:
    """Queues on one server, whose clock jumps ahead instead of everybody waiting."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._ahead_s = 0.0
        self.queue = self._queue()

    def _queue(self) -> JobQueue:
        return JobQueue(
            self.client,
            lease_s=LEASE_S,
            retention_s=RETENTION_S,
            backoff_s=BACKOFF_S,
            clock_offset_s=self._ahead_s,
        )

    def jump(self, seconds: float) -> None:
        """Let ``seconds`` pass while nobody reaps, as in an outage."""
        self._ahead_s += seconds
        self.queue = self._queue()

    def pass_time(self, seconds: float) -> Sequence[str]:
        """Let ``seconds`` pass while workers reap as they should; returns the ids reaped."""
        reaped: list[str] = [*self.queue.reap()]
        while seconds > 0:
            step = min(seconds, LEASE_S / 3)
            self.jump(step)
            seconds -= step
            reaped += self.queue.reap()
        return reaped

    def forget_ended(self) -> None:
        """Let the retention of all ended jobs pass."""
        self.jump(RETENTION_S + 1)
        self.queue.reap()


@pytest.fixture
def bench(redis_client: redis.Redis) -> Bench:
    """Queue with a lease of 10 s and a retention of 1000 s on an empty server."""
    return Bench(redis_client)
