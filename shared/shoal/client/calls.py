"""Every method of the two clients, written once: coroutines over a `Transport`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx

from shoal.client.analyses import AnalysisCalls
from shoal.client.deciding import Deciding
from shoal.client.jobs import JobCalls
from shoal.client.naming import Naming
from shoal.client.online import OnlineCalls
from shoal.client.requests import Request
from shoal.client.results import ResultCalls
from shoal.client.tables import ContactSheet, Facts, Rows, Table
from shoal.client.transport import is_local
from shoal.client.uploads import Outgoing, beside_embeddings, images_of, send_upload, sent_name, with_label_file
from shoal.client.vectors import Json
from shoal.errors import PathNotFound, PathOutsideRoot
from shoal.figures import Metrics
from shoal.schemas import Job

IMAGES_FIELDS = ("labels", "split", "format", "include", "exclude", "limit")
"""Options of `extract` that are fields of ``images``."""


class Calls(JobCalls, OnlineCalls, ResultCalls, AnalysisCalls, Deciding, Naming):
    """The methods of both clients; parameters as in `Client`."""

    async def extract(
        self,
        /,
        path: str | Path,
        *,
        model: str | Json,
        upload: bool | None = None,
        idempotency_key: str | None = None,
        **options: object,
    ) -> Job:
        """Submit an extraction of images.

        Options in `IMAGES_FIELDS`, such as ``labels``, go to ``images``; the others are fields of `POST /extract`.
        ``reuse=None`` embeds every image.

        Parameters
        ----------
        path
            Where the images are, relative to the service's data root; ``upload:<id>`` for an upload.
        upload
            Whether to `upload` the folder ``path`` of this machine first. None does so where the extractor runs on
            another machine and has no such path, or ``path`` is a `Path`.
        """
        chosen: Json = {key: options.pop(key) for key in IMAGES_FIELDS if key in options}

        async def submit(images: Json) -> Job:
            body = {"images": {**images, **chosen}, "model": model, **options}
            return await self._submit("extractor", "/extract", body, idempotency_key, nulls=("reuse",))

        here = Path(path).expanduser()
        may_upload = upload or (upload is None and not is_local(self._services.urls["extractor"]) and here.is_dir())
        if not upload and not (may_upload and isinstance(path, Path)):
            try:
                return await submit(images_of(str(path)))
            except (PathNotFound, PathOutsideRoot) as error:
                if not may_upload or error.members.get("field") != "images.path":
                    raise
        extra, chosen = with_label_file(here, chosen)
        return await submit({"upload": (await self.upload(here, extra=extra))["upload"]})

    async def upload(
        self,
        /,
        images: str | Path | Iterable[str | Path],
        *,
        extra: Mapping[str, Path] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Json:
        """Send a folder, or files, to the extractor; a broken or killed upload of the same files is continued.

        Parameters
        ----------
        images
            A folder with all its files, or files, which are named by their last part.
        extra
            Further files by their path in the upload, such as a label file.
        on_progress
            Called after every part with the bytes that have been sent, and all bytes.

        Returns
        -------
        dict
            ``upload``, the id; ``images`` and ``bytes``, their number and size.
        """
        outgoing = await self._transport.work(lambda: Outgoing.of(images, extra or {}))
        return await send_upload(self._transport, self._send, outgoing, on_progress)

    async def import_embeddings(
        self,
        /,
        path: str | Path,
        *,
        name: str,
        labels: str | Path | Json | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        idempotency_key: str | None = None,
        **options: object,
    ) -> Job:
        """Send existing embeddings to the extractor and submit their import; a broken upload is continued.

        The job's result has ``embeddings``, the id, ``rows`` and ``dim``; of a file with several sets also ``sets``.

        Parameters
        ----------
        path
            A file of embeddings of this machine (.npy, .npz, .pt, .safetensors, .h5, .parquet), a folder of such files,
            or a clip-retrieval folder. Or ``upload:<id>/<path>`` of an upload.
        name
            Prefix of the id of the embeddings.
        labels
            A label file of this machine, or ``{"file": …, "path_column": …, "label_column": …}``; an empty
            ``path_column`` joins labels by order. Of an upload, the file is one of it.
        on_progress
            Called after every part with the bytes that have been sent, and all bytes.
        options
            Other fields of `POST /embeddings`, such as ``split``, ``key``, ``label_key`` and ``path_key``.

        Raises
        ------
        PathNotFound
            A file does not exist.
        """
        chosen: object = {"file": str(labels)} if isinstance(labels, str | Path) else labels
        source = images_of(str(path))
        if "upload" not in source:
            here = Path(path).expanduser()
            extra, chosen = beside_embeddings(here, labels)
            outgoing = await self._transport.work(lambda: Outgoing.of_embeddings(here, extra))
            sent = await send_upload(self._transport, self._send, outgoing, on_progress)
            source = {"upload": sent["upload"], "path": sent_name(here)}
        body = {**source, "name": name, "labels": chosen, **options}
        return await self._submit("extractor", "/embeddings", body, idempotency_key)

    async def cluster(self, /, embeddings: str | Json, *, idempotency_key: str | None = None, **options: object) -> Job:
        """Submit a clustering of an embeddings id; every option is a field of `POST /cluster`."""
        return await self._submit("clusterer", "/cluster", {"embeddings": embeddings, **options}, idempotency_key)

    async def sweep(
        self, /, embeddings: str | Json | list[str | Json], *, idempotency_key: str | None = None, **options: object
    ) -> Job:
        """Submit a sweep over lists of options, and of embeddings where several are given."""
        sets = embeddings[0] if isinstance(embeddings, list) and len(embeddings) == 1 else embeddings
        return await self._submit("clusterer", "/sweep", {"embeddings": sets, **options}, idempotency_key)

    async def sweeps(self) -> Rows[Json]:
        """All sweeps, newest first."""
        return Rows((await self._get("clusterer", "/sweeps"))["sweeps"])

    async def sweep_facts(self, sweep_id: str) -> Facts:
        """One sweep: how far it is, and the ``table`` of its points."""
        return Facts(await self._get("clusterer", f"/sweeps/{sweep_id}"))

    async def download_sweep(self, sweep_id: str, what: str, target: Path) -> Path:
        """Save ``table.csv``, ``table.parquet``, or a plot such as ``pca.svg`` as the file ``target``."""
        stem, _, extension = what.rpartition(".")
        path = f"/sweeps/{sweep_id}" if stem == "table" else f"/sweeps/{sweep_id}/plots/{what}"
        query = {"format": extension} if stem == "table" else {}
        answer = await self._send(Request("clusterer", "GET", path, query))
        await self._transport.work(lambda: target.write_bytes(answer.content))
        return target

    async def embeddings(self, embeddings_id: str | None = None) -> Any:
        """One embeddings id's facts, or the list of all."""
        if embeddings_id is None:
            return Rows((await self._get("extractor", "/embeddings"))["embeddings"])
        return Facts(await self._get("extractor", f"/embeddings/{embeddings_id}"))

    def rows(self, embeddings_id: str, *, page_rows: int = 1000) -> AsyncGenerator[Json, None]:
        """The rows of an embeddings set: ``row``, ``image_id``, ``image_path``, ``label``, ``split``, sizes, sha256."""
        return self._pages("extractor", f"/embeddings/{embeddings_id}/rows", "rows", {}, page_rows)

    def assignments(self, clustering_id: str) -> AsyncGenerator[Json, None]:
        """Every row that was clustered: ``row``, ``cluster``, ``distance``, ``margin``, ``image_path``, ``label``, …

        Path and label are None for embeddings that were deleted.
        """
        return self._lines(f"/clusterings/{clustering_id}/assignments", {})

    async def rows_table(self, embeddings_id: str) -> Table:
        """`rows` as one table."""
        return Table(Rows([row async for row in self.rows(embeddings_id)]).to_arrow())

    async def assignments_table(self, clustering_id: str) -> Table:
        """`assignments` as one table."""
        return await self._table(f"/clusterings/{clustering_id}/assignments")

    async def map(self, clustering_id: str, *, embeddings: str | None = None) -> Table:
        """The places of a scored set's rows on the map, and their clusters: ``row``, ``x``, ``y``, ``cluster``.

        Parameters
        ----------
        embeddings
            The first scored set by default.
        """
        return await self._table(f"/clusterings/{clustering_id}/map", {"embeddings": embeddings})

    async def contact_sheet(
        self, /, clustering_id: str, *, clusters: int = 12, images: int = 8, **options: Any
    ) -> ContactSheet:
        """Clusters with their nearest members, which a notebook shows as thumbnails.

        Parameters
        ----------
        clusters
            How many clusters; options are those of `clusters`.
        images
            Thumbnails of each cluster that are shown.
        """
        path = f"/clusterings/{clustering_id}/clusters"
        query = {"embeddings": options.get("embeddings"), "thumbnails": True}
        found = await self.clusters(clustering_id, limit=clusters, **options)
        return ContactSheet(
            [await self._get("clusterer", f"{path}/{each['cluster']}", query) for each in found], images
        )

    async def clusterings(self) -> Rows[Json]:
        """All clusterings, newest first."""
        return Rows((await self._get("clusterer", "/clusterings"))["clusterings"])

    async def clustering(self, clustering_id: str) -> Facts:
        """One clustering's facts."""
        return Facts(await self._get("clusterer", f"/clusterings/{clustering_id}"))

    async def metrics(self, clustering_id: str) -> Metrics:
        """Its metrics.json: a dict that prints as a table."""
        return Metrics(await self._get("clusterer", f"/clusterings/{clustering_id}/metrics"))

    async def clusters(self, /, clustering_id: str, **options: Any) -> Rows[Json]:
        """Its clusters: ``sort`` is size, purity or tightness."""
        return Rows((await self._get("clusterer", f"/clusterings/{clustering_id}/clusters", options))["clusters"])

    async def download(self, /, clustering_id: str, what: str, target: Path, **options: Any) -> Path:
        """Save ``assignments``, ``map``, ``report`` or ``contact-sheet`` of a clustering as the file ``target``."""
        return await self._save(f"/clusterings/{clustering_id}/{what}", options, target)

    async def ready(self) -> dict[str, Json]:
        """Both services' readiness, by name; a service that does not answer has ``ready: false``."""
        answers: dict[str, Json] = {}
        for service, url in self._services.urls.items():
            try:
                answers[service] = (await self._transport.send(Request(service, "GET", "/readyz"))).json()
            except (httpx.HTTPError, ValueError) as error:
                answers[service] = {"ready": False, "checks": {"service": f"{url}: {error}"}}
        return answers
