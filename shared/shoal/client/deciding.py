"""The clients' methods for decisions about the images that duplicates and quality checks found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shoal.client.requests import Query, Request
from shoal.client.sending import Sending
from shoal.client.vectors import Json

AnalysisName = Literal["duplicates", "quality"]


@dataclass(frozen=True)
class Decisions:
    """What is decided about images, and the version that a change of it is made for.

    Attributes
    ----------
    rows
        By row: ``action`` (``keep``, ``drop`` or None) and ``label`` (the label that is right, or None).
    etag
        The version.
    """

    rows: dict[int, Json]
    etag: str


class Deciding(Sending):
    """Methods of both clients; ``kind`` is ``duplicates`` or ``quality``, ``which`` the id of a result."""

    async def decisions(self, kind: AnalysisName, which: str) -> Decisions:
        """What is decided about the images of a result."""
        answer = await self._send(Request("clusterer", "GET", f"/{kind}/{which}/decisions"))
        return _decisions_of(answer.json(), answer.headers["ETag"])

    async def decide(
        self, kind: AnalysisName, which: str, rows: Mapping[int, Json | None], *, etag: str | None = None
    ) -> Decisions:
        """Decide about images, such as ``{3: {"action": "drop"}, 4: {"label": "shoe"}}``; None takes all back.

        Parameters
        ----------
        rows
            By row: the fields to change; at most 10,000.
        etag
            The version that the change is made for. Without it the change is made whatever others changed before; what
            it does not mention stays.

        Returns
        -------
        Decisions
            About these rows.

        Raises
        ------
        PreconditionFailed
            Somebody else changed them since.
        InvalidRequest
            The result has no such row; duplicates take no ``label``.
        """
        body = {str(row): said for row, said in rows.items()}

        def request(version: str) -> Request:
            path = f"/{kind}/{which}/decisions"
            return Request("clusterer", "PATCH", path, json=body, headers={"If-Match": version})

        return _decisions_of(*await self._at_version(self._decided(kind, which), etag, request))

    async def undo_decision(
        self, kind: AnalysisName, which: str, *, entry: int | None = None, etag: str | None = None
    ) -> Json:
        """Take back the last change of decisions, or that of one entry; the entry that does so.

        Raises
        ------
        UndoConflict
            No change is left, or what the entry set was changed again since.
        """
        path, query = f"/{kind}/{which}/decisions/undo", {"entry": entry}

        def request(version: str) -> Request:
            return Request("clusterer", "POST", path, query, headers={"If-Match": version})

        # Once: had the first try worked although its answer was lost, another would take back one change more.
        return (await self._at_version(self._decided(kind, which), etag, request, tries=1))[0]

    async def decision_summary(self, kind: AnalysisName, which: str) -> Json:
        """How much is ``decided``, and how many images are to be dropped (``drops``)."""
        return await self._get("clusterer", f"/{kind}/{which}/decisions/summary")

    async def export_decisions(
        self,
        kind: AnalysisName,
        which: str,
        target: Path,
        *,
        format: Literal["txt", "csv", "jsonl", "parquet", "arrow"] = "csv",  # noqa: A002
        decided: bool = False,
    ) -> Path:
        """Save the images to drop, and what is decided, as the file ``target``.

        Parameters
        ----------
        format
            ``txt``: the paths of the images to drop, one a line.
        decided
            Only what is decided, not what duplicates suggest.
        """
        query: Query = {"format": format, "decided": decided}
        return await self._save(f"/{kind}/{which}/decisions/export", query, target)

    def _decided(self, kind: AnalysisName, which: str) -> Callable[[], Awaitable[str]]:
        async def version() -> str:
            answer = await self._send(Request("clusterer", "GET", f"/{kind}/{which}/decisions", {"limit": 0}))
            return str(answer.headers["ETag"])

        return version


def _decisions_of(rows: Json, etag: str) -> Decisions:
    return Decisions({int(row): said for row, said in rows.items()}, etag)
