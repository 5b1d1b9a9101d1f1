"""The methods of the clients for analyses of embeddings: duplicates and quality."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Literal

from shoal.client.requests import Query
from shoal.client.sending import Sending
from shoal.client.tables import Facts, Rows
from shoal.client.vectors import Json
from shoal.schemas import Job

PAGE = 200
"""Groups or rows of one request."""


class AnalysisCalls(Sending):
    """What the clients ask about embeddings; parameters as in `Client`."""

    async def duplicates(
        self,
        embeddings: str,
        *,
        against: str | None = None,
        threshold: float | None = None,
        link: Literal["single", "complete"] | None = None,
        memory_limit: int | str | None = None,
        execution: Json | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a search for images that show the same.

        Parameters
        ----------
        embeddings
            An embeddings' id.
        against
            Embeddings of the same model that stay as they are: only what is in both is found, to be dropped from
            ``embeddings``.
        threshold
            Least similarity of two duplicates; 0.95 when left out.
        link
            ``complete`` (by default): every two images of a group are duplicates. ``single``: a chain of duplicates
            connects them.
        execution
            Where the computations run, as a field of `POST /duplicates`; in the job's worker when left out.

        Returns
        -------
        Job
            ``result["duplicates"]`` is the id for `duplicate_groups`, once it has succeeded.
        """
        body: Json = {"embeddings": embeddings, "against": against, "threshold": threshold, "link": link}
        body = {**body, "memory_limit": memory_limit, "execution": execution, "callback_url": callback_url}
        return await self._submit("clusterer", "/duplicates", body, idempotency_key)

    def duplicate_groups(
        self,
        duplicates_id: str,
        *,
        sort: Literal["size", "similarity"] = "size",
        copy: Literal["file", "pixels", "near"] | None = None,
        members: int = 100,
    ) -> AsyncGenerator[Json, None]:
        """The groups of duplicates: ``size``, ``least_similarity``, ``rows`` (the one to keep first), …

        Parameters
        ----------
        copy
            Only groups of this kind of copy.
        members
            The most rows that are listed of a group: 1 to 1000.
        """
        query: Query = {"sort": sort, "copy": copy, "members": members}
        return self._pages("clusterer", f"/duplicates/{duplicates_id}/groups", "groups", query, PAGE)

    async def quality(
        self,
        embeddings: str,
        *,
        neighbours: int | None = None,
        memory_limit: int | str | None = None,
        callback_url: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Submit a check of images and labels; ``result["quality"]`` is the id for `quality_rows`.

        Parameters
        ----------
        embeddings
            An embeddings' id.
        neighbours
            How many of the nearest images each is compared with; 10 when left out.
        """
        body: Json = {"embeddings": embeddings, "neighbours": neighbours, "memory_limit": memory_limit}
        body["callback_url"] = callback_url
        return await self._submit("clusterer", "/quality", body, idempotency_key)

    def quality_rows(
        self, quality_id: str, table: Literal["outliers", "labels", "images"], *, everything: bool = False
    ) -> AsyncGenerator[Json, None]:
        """What a check found, the most striking first.

        Parameters
        ----------
        table
            ``outliers``, ``labels`` (labels that are probably wrong) or ``images`` (files that stand out).
        everything
            Whether to list all rows by their score, not only those that count.
        """
        query: Query = {"all": everything}
        return self._pages("clusterer", f"/quality/{quality_id}/{table}", "rows", query, PAGE)

    async def analyses(self, kind: str) -> Rows[Json]:
        """All results of a kind, newest first: ``duplicates`` or ``quality``."""
        return Rows((await self._get("clusterer", f"/{kind}"))[kind])

    async def analysis(self, kind: str, which: str) -> Facts:
        """The facts of one result: its request, its sets and its totals."""
        return Facts(await self._get("clusterer", f"/{kind}/{which}"))

    async def download_analysis(
        self,
        kind: str,
        which: str,
        table: str,
        target: Path,
        *,
        format: Literal["parquet", "csv", "jsonl", "arrow"] = "parquet",  # noqa: A002
    ) -> Path:
        """Save a table of a result as the file ``target``: ``members`` or ``pairs`` of duplicates, …"""
        return await self._save(f"/{kind}/{which}/{table}", {"format": format}, target)
