"""Calls about results that are made from clusterings: assignments of embeddings, comparisons."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from shoal.client.sending import Sending
from shoal.client.tables import Facts, Rows, Table
from shoal.client.vectors import Json
from shoal.errors import JsonValue
from shoal.schemas import Job


class ResultCalls(Sending):
    """The methods of both clients that assign embeddings and compare clusterings; parameters as in `Client`."""

    async def assign_embeddings(
        self, /, clustering: str, embeddings: str, *, idempotency_key: str | None = None, **options: object
    ) -> Job:
        """Submit the assignment of all rows of an embeddings id to a clustering; options are fields of `POST /assign`.

        The result has ``assignments``, the id under which `assigned` and `assigned_rows` find it.
        """
        body = {"clustering": clustering, "embeddings": embeddings, **options}
        return await self._submit("clusterer", "/assign", body, idempotency_key)

    async def assigned(self, assignments_id: str | None = None) -> JsonValue:
        """The facts and the drift of assignments, or the list of all."""
        if assignments_id is None:
            return Rows((await self._get("clusterer", "/assignments"))["assignments"])
        return Facts(await self._get("clusterer", f"/assignments/{assignments_id}"))

    def assigned_rows(self, assignments_id: str) -> AsyncGenerator[Json, None]:
        """Every row that was assigned: ``row``, ``cluster``, ``distance``, ``margin``, ``is_outlier``, …

        Path and label are None for embeddings that were deleted.
        """
        return self._lines(f"/assignments/{assignments_id}/rows", {})

    async def compare(self, /, a: str, b: str, **options: JsonValue) -> Json:
        """What became of the clusters of one clustering in another, over the rows that both have assigned.

        ``sort`` is changed, size or cluster, ``limit`` the most entries of each list.
        """
        return await self._get("clusterer", f"/clusterings/{a}/compare/{b}", options)

    async def assigned_table(self, assignments_id: str) -> Table:
        """`assigned_rows` as one table."""
        return await self._table(f"/assignments/{assignments_id}/rows")

    async def assigned_clusters(self, /, assignments_id: str, **options: JsonValue) -> Rows[Json]:
        """Its clusters beside those of the train set: ``sort`` is size, grown, shrunk, outliers or psi."""
        answer = await self._get("clusterer", f"/assignments/{assignments_id}/clusters", options)
        return Rows(answer["clusters"])
