"""Calls about jobs: reading, cancelling, and waiting for their end."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from shoal.client.requests import Request
from shoal.client.sending import Sending
from shoal.errors import ShoalError, TooManyRequests, Unavailable, by_code
from shoal.schemas import Job, JobPage

PATIENCE_S = 600.0
"""How long `follow` waits for a service that does not answer: longer than an upgrade takes."""


class JobCalls(Sending):
    """The methods of both clients about jobs; parameters as in `Client`."""

    async def job(self, job_id: str) -> Job:
        """One job; either service knows them all."""
        return Job.model_validate(await self._get("extractor", f"/jobs/{job_id}"))

    async def jobs(self, /, **filters: Any) -> JobPage:
        """A page of jobs, newest first: ``state``, ``kind``, ``limit``, ``cursor``."""
        return JobPage.model_validate(await self._get("extractor", "/jobs", filters))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return Job.model_validate((await self._send(Request("extractor", "DELETE", f"/jobs/{job_id}"))).json())

    async def follow(
        self,
        job: Job | str,
        *,
        poll_s: float = 0.3,
        patience_s: float = PATIENCE_S,
        on_outage: Callable[[ShoalError], None] | None = None,
    ) -> AsyncGenerator[Job, None]:
        """The job at every poll until it has ended; the last one is terminal.

        Parameters
        ----------
        poll_s
            Seconds between two polls.
        patience_s
            How long the service may be unreachable, as during a restart; jobs continue meanwhile.
        on_outage
            Called with the reason at every poll that fails.

        Raises
        ------
        Unavailable
            The service was unreachable for longer than ``patience_s``.
        """
        job_id = job if isinstance(job, str) else job.id
        answered_at = time.monotonic()
        while True:
            try:
                current = await self.job(job_id)
            except (Unavailable, TooManyRequests) as error:
                if time.monotonic() - answered_at > patience_s:
                    raise
                if on_outage is not None:
                    on_outage(error)
                await self._transport.sleep(poll_s)
                continue
            answered_at = time.monotonic()
            yield current
            if current.state.terminal:
                return
            await self._transport.sleep(poll_s)

    async def wait(
        self,
        job: Job | str,
        on_progress: Callable[[Job], None] | None = None,
        *,
        patience_s: float = PATIENCE_S,
        on_outage: Callable[[ShoalError], None] | None = None,
    ) -> Job:
        """Wait until the job has ended; `follow` explains ``patience_s`` and ``on_outage``.

        Raises
        ------
        ShoalError
            The job failed: its own problem as the exception of that code. Cancelled: code ``job_cancelled``.
        """
        current: Job | None = None
        async for current in self.follow(job, patience_s=patience_s, on_outage=on_outage):
            if on_progress is not None:
                on_progress(current)
        if current is None or current.state != "succeeded":
            raise by_code((current.error if current else None) or {"code": "job_cancelled", "detail": "Cancelled."})
        return current
