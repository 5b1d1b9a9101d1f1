"""The clients' methods for the names of clusters, and for exports."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shoal.client.requests import Query, Request
from shoal.client.sending import Sending
from shoal.client.vectors import Json
from shoal.errors import JsonValue


@dataclass(frozen=True)
class Names:
    """What is said about clusters, and the version that a change of it is made for.

    Attributes
    ----------
    clusters
        By number of the cluster: those of ``name``, ``flag`` and ``merged_into`` that it has.
    etag
        The version.
    """

    clusters: dict[int, Json]
    etag: str


class Naming(Sending):
    """Methods of both clients; parameters as in `Client`."""

    async def names(self, clustering_id: str) -> Names:
        """The names, flags and merges of a clustering's clusters."""
        return await self._names(Request("clusterer", "GET", f"/clusterings/{clustering_id}/names"))

    async def put_names(self, clustering_id: str, clusters: Mapping[int, Json], *, etag: str) -> Names:
        """Replace the names of all clusters, if they still are what `names` returned with ``etag``.

        Raises
        ------
        PreconditionFailed
            Somebody else changed them since.
        MergeCycle, InvalidRequest
            They cannot be said of this clustering.
        """
        body = {str(cluster): said for cluster, said in clusters.items()}
        path, headers = f"/clusterings/{clustering_id}/names", {"If-Match": etag}
        return await self._names(Request("clusterer", "PUT", path, json=body, headers=headers))

    async def name(self, clustering_id: str, clusters: Mapping[int, Json | None], *, etag: str | None = None) -> Names:
        """Change some names, such as ``{3: {"name": "shoes"}, 4: {"merged_into": 3}}``; None removes.

        Parameters
        ----------
        clusters
            By number: the fields to change. None instead removes all that is said about the cluster.
        etag
            The version that the change is made for. Without it the change is made whatever others changed before; what
            it does not mention stays.

        Raises
        ------
        PreconditionFailed, MergeCycle, InvalidRequest
            As in `put_names`.
        """
        body = {str(cluster): said for cluster, said in clusters.items()}
        path = f"/clusterings/{clustering_id}/names"

        def request(version: str) -> Request:
            return Request("clusterer", "PATCH", path, json=body, headers={"If-Match": version})

        return _names_of(*await self._at_version(self._current(clustering_id), etag, request))

    async def suggest_names(self, /, clustering_id: str, words: Iterable[str], **options: JsonValue) -> list[Json]:
        """The words that fit each cluster best, by number: ``cluster``, ``images``, ``suggestions``.

        Parameters
        ----------
        words
            What clusters may be called; at most 1,000. The model of the embeddings must embed texts.
        **options
            Fields of `POST /clusterings/{id}/names/suggestions`: ``template``, ``embeddings``, ``images``, ``most``.
        """
        body: Json = {"words": list(words), **options}
        path = f"/clusterings/{clustering_id}/names/suggestions"
        return list((await self._send(Request("clusterer", "POST", path, json=body))).json()["clusters"])

    async def moves(self, clustering_id: str, *, embeddings: str | None = None) -> dict[int, int]:
        """The images that were moved: the cluster by row of a scored set, by default the first."""
        answer = await self._get("clusterer", f"/clusterings/{clustering_id}/moves", {"embeddings": embeddings})
        return {int(row): cluster for row, cluster in answer.items()}

    async def move(
        self,
        clustering_id: str,
        rows: Mapping[int, int | None],
        *,
        embeddings: str | None = None,
        etag: str | None = None,
    ) -> dict[int, int]:
        """Move images, by row, to other clusters; None moves one back. ``etag`` as in `name`."""
        body = {str(row): cluster for row, cluster in rows.items()}
        path, query = f"/clusterings/{clustering_id}/moves", {"embeddings": embeddings}

        def request(version: str) -> Request:
            return Request("clusterer", "PATCH", path, query, json=body, headers={"If-Match": version})

        found, _ = await self._at_version(self._current(clustering_id), etag, request)
        return {int(row): cluster for row, cluster in found.items()}

    async def undo_names(self, clustering_id: str, *, entry: int | None = None, etag: str | None = None) -> Json:
        """Take back the last change of names or moves, or that of one entry; the entry that does so.

        Raises
        ------
        UndoConflict
            No change is left, or what the entry set was changed again since.
        """
        path, query = f"/clusterings/{clustering_id}/names/undo", {"entry": entry}

        def request(version: str) -> Request:
            return Request("clusterer", "POST", path, query, headers={"If-Match": version})

        # Once: had the first try worked although its answer was lost, another would take back one change more.
        return (await self._at_version(self._current(clustering_id), etag, request, tries=1))[0]

    async def names_history(self, clustering_id: str, *, limit: int = 100, before: int | None = None) -> list[Json]:
        """Who changed names and moves, when, and from what to what, newest first."""
        query: Query = {"limit": limit, "before": before}
        return list((await self._get("clusterer", f"/clusterings/{clustering_id}/names/history", query))["entries"])

    async def export(
        self,
        clustering_id: str,
        format: str,  # noqa: A002
        target: Path,
        *,
        embeddings: str | None = None,
        root: str = "",
    ) -> Path:
        """Save the class of every image as a file for another tool, names and merges applied.

        Parameters
        ----------
        format
            ``fiftyone``, ``labelstudio``, ``labelstudio-config``, ``cvat``, ``coco``, ``imagefolder`` (a tar archive of
            the images), ``csv``, ``jsonl``, ``parquet`` or ``arrow``.
        embeddings
            A scored set; by default the first.
        root
            What comes before each path: the folder of the images, or an address.
        """
        query: Query = {"format": format, "embeddings": embeddings, "root": root or None}
        return await self._save(f"/clusterings/{clustering_id}/export", query, target)

    def export_rows(self, clustering_id: str, *, embeddings: str | None = None) -> AsyncGenerator[Json, None]:
        """Every row of a scored set: ``image_path``, ``cluster``, ``merged_cluster``, ``name``, ``flag``, …"""
        return self._lines(f"/clusterings/{clustering_id}/export", {"embeddings": embeddings})

    async def _names(self, request: Request) -> Names:
        answer = await self._send(request)
        return _names_of(answer.json(), answer.headers["ETag"])

    def _current(self, clustering_id: str) -> Callable[[], Awaitable[str]]:
        async def version() -> str:
            return (await self.names(clustering_id)).etag

        return version


def _names_of(clusters: Json, etag: str) -> Names:
    return Names({int(cluster): said for cluster, said in clusters.items()}, etag)
