"""Every method of the two clients, written once: coroutines over a `Transport`."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from shoal.client.images import MAX_IMAGES, Chunk, Chunks, Image
from shoal.client.requests import Query, Request, Service
from shoal.client.search import Neighbour, found_in, image_of, vector_of
from shoal.client.sending import Sending
from shoal.client.transport import T, is_local
from shoal.client.uploads import Outgoing, images_of, send_upload, with_label_file
from shoal.client.vectors import Assignments, Json, Pieces, Vector, Vectors, embeddings_of, of_arrow, of_json
from shoal.errors import (
    InvalidRequest,
    PathNotFound,
    PathOutsideRoot,
    ShoalError,
    TooManyRequests,
    Unavailable,
    by_code,
)
from shoal.figures import Metrics
from shoal.inline import ARROW, NPY
from shoal.schemas import Job, JobPage

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

IMAGES_FIELDS = ("labels", "split", "format", "include", "exclude", "limit")
"""Options of `extract` that are fields of ``images``."""
PATIENCE_S = 600.0
"""How long `follow` waits for a service that does not answer: longer than an upgrade takes."""


class Calls(Sending):
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

    async def cluster(self, /, embeddings: str | Json, *, idempotency_key: str | None = None, **options: object) -> Job:
        """Submit a clustering of an embeddings id; every option is a field of `POST /cluster`."""
        return await self._submit("clusterer", "/cluster", {"embeddings": embeddings, **options}, idempotency_key)

    async def sweep(
        self, /, embeddings: str | Json | list[str | Json], *, idempotency_key: str | None = None, **options: object
    ) -> Job:
        """Submit a sweep over lists of options, and of embeddings where several are given."""
        sets = embeddings[0] if isinstance(embeddings, list) and len(embeddings) == 1 else embeddings
        return await self._submit("clusterer", "/sweep", {"embeddings": sets, **options}, idempotency_key)

    async def sweeps(self) -> list[Json]:
        """All sweeps, newest first."""
        return list((await self._get("clusterer", "/sweeps"))["sweeps"])

    async def sweep_facts(self, sweep_id: str) -> Json:
        """One sweep: how far it is, and the ``table`` of its points."""
        return await self._get("clusterer", f"/sweeps/{sweep_id}")

    async def download_sweep(self, sweep_id: str, what: str, target: Path) -> Path:
        """Save ``table.csv``, ``table.parquet``, or a plot such as ``pca.svg`` as the file ``target``."""
        stem, _, extension = what.rpartition(".")
        path = f"/sweeps/{sweep_id}" if stem == "table" else f"/sweeps/{sweep_id}/plots/{what}"
        query = {"format": extension} if stem == "table" else {}
        answer = await self._send(Request("clusterer", "GET", path, query))
        await self._transport.work(lambda: target.write_bytes(answer.content))
        return target

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

    async def models(self) -> list[Json]:
        """The catalogue."""
        return list((await self._get("extractor", "/models"))["models"])

    async def embed(
        self, images: Image | Iterable[Image], *, model: str | Json, batch: int = MAX_IMAGES
    ) -> NDArray[np.float32]:
        """The embeddings of images, without a job.

        Parameters
        ----------
        images
            One image or several. An image is a file's path, a file's bytes, a PIL image, or a numpy array of uint8
            with the shape ``(h, w, 3)`` or ``(h, w)``. Files are sent as they are, pixels as PNG. More than one request
            holds are sent in several, a few at a time.
        model
            A name from `models`, ``timm:<name>``, or an object that describes a model of your own. The first request of
            a model waits until it is loaded.
        batch
            The most images of one request: 1 to 64.

        Returns
        -------
        (n, dim) float32 ndarray
            One row an image, in the order of ``images``.

        Raises
        ------
        ImageInvalid, InvalidRequest
            An image cannot be read or decoded; the message names its index in ``images``.
        Unavailable, TooManyRequests
            The service has more to do than it can hold, even after the retries.
        """
        import numpy as np

        async def embedded(chunk: Chunk) -> NDArray[np.float32]:
            fields = {"model": model, "encoding_format": "base64"}
            answer = await self._send_images("extractor", "/v1/embeddings", "input", chunk, fields)
            return await self._transport.work(lambda: embeddings_of(answer.json()))

        return np.concatenate(await self._each(images, batch, embedded))

    async def assign(
        self,
        clustering: str,
        *,
        images: Image | Iterable[Image] | None = None,
        vectors: Vectors | None = None,
        outlier_quantile: float | None = None,
    ) -> Assignments:
        """The clusters nearest to images or vectors.

        Parameters
        ----------
        clustering
            A clustering's id.
        images
            As `embed` takes them; the model is the one whose embeddings were clustered.
        vectors
            ``(n, dim)`` embeddings of that model: an array, or a list of rows. Exactly one of the two is given.
        outlier_quantile
            What is farther from its centroid than this share of the train set's rows is an outlier; 0.99 when left out.

        Raises
        ------
        DimensionMismatch, NotFinite
            A vector does not fit the clustering.
        ImageInvalid, InvalidRequest, Unavailable, TooManyRequests
            As in `embed`.
        """
        path, query = f"/clusterings/{clustering}/assign", {"outlier_quantile": outlier_quantile}
        if (images is None) == (vectors is None):
            raise InvalidRequest("Give exactly one of `images` and `vectors`.")
        if vectors is not None:
            return await self._assign_vectors(path, query, vectors)

        async def assigned(chunk: Chunk) -> pa.Table:
            return of_json((await self._send_images("clusterer", path, "images", chunk, {}, query)).json())

        return Assignments.of(await self._each(images if images is not None else [], MAX_IMAGES, assigned))

    async def search(
        self,
        embeddings: str,
        *,
        row: int | None = None,
        image: Image | None = None,
        vector: Vector | None = None,
        k: int = 10,
    ) -> list[Neighbour]:
        """The rows of an embeddings set that are most similar to a row, an image or a vector, the nearest first.

        Parameters
        ----------
        embeddings
            An embeddings' id.
        row
            The number of one of its rows, which is left out of the answer. Exactly one of the three is given.
        image
            One image, as `embed` takes it; the model is that of the embeddings.
        vector
            ``(dim,)``: an embedding of that model.
        k
            How many rows: 1 to 1000.

        Raises
        ------
        DimensionMismatch, VectorsInvalid
            The vector has another length than the embeddings, or is all zeros.
        EmbeddingsNotFound, EmbeddingsIncomplete
            No embeddings have that id, or they are not finished.
        ImageInvalid, InvalidRequest, Unavailable, TooManyRequests
            As in `embed`.
        """
        if sum(each is not None for each in (row, image, vector)) != 1:
            raise InvalidRequest("Give exactly one of `row`, `image` and `vector`.")
        body: Json = {"embeddings": embeddings, "k": k}
        if image is None:
            body |= {"row": row} if vector is None else {"vector": vector_of(vector)}
            answer = await self._send(Request("clusterer", "POST", "/search", json=body))
            return found_in(answer.json())
        chunk = await self._transport.work(lambda: image_of(image))
        body["image"] = chunk.uris()[0]
        try:
            return found_in((await self._send(Request("clusterer", "POST", "/search", json=body))).json())
        except ShoalError as error:
            raise chunk.placed(error) from None

    async def embeddings(self, embeddings_id: str | None = None) -> Any:
        """One embeddings id's facts, or the list of all."""
        if embeddings_id is None:
            return (await self._get("extractor", "/embeddings"))["embeddings"]
        return await self._get("extractor", f"/embeddings/{embeddings_id}")

    async def rows(self, embeddings_id: str, *, page_rows: int = 1000) -> AsyncGenerator[Json, None]:
        """The rows of an embeddings set: ``row``, ``image_id``, ``image_path``, ``label``, ``split``, sizes, sha256."""
        cursor: str | None = None
        while True:
            path = f"/embeddings/{embeddings_id}/rows"
            page = await self._get("extractor", path, {"limit": page_rows, "cursor": cursor})
            for row in page["rows"]:
                yield row
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def assignments(self, clustering_id: str) -> AsyncGenerator[Json, None]:
        """Every row that was clustered: ``row``, ``cluster``, ``distance``, ``margin``, ``image_path``, ``label``, …

        Path and label are None for embeddings that were deleted.
        """
        path = f"/clusterings/{clustering_id}/assignments"
        async with self._open(Request("clusterer", "GET", path, {"format": "jsonl"})) as body:
            async for line in body.lines():
                yield json.loads(line)

    async def clusterings(self) -> list[Json]:
        """All clusterings, newest first."""
        return list((await self._get("clusterer", "/clusterings"))["clusterings"])

    async def clustering(self, clustering_id: str) -> Json:
        """One clustering's facts."""
        return await self._get("clusterer", f"/clusterings/{clustering_id}")

    async def metrics(self, clustering_id: str) -> Metrics:
        """Its metrics.json: a dict that prints as a table."""
        return Metrics(await self._get("clusterer", f"/clusterings/{clustering_id}/metrics"))

    async def clusters(self, /, clustering_id: str, **options: Any) -> list[Json]:
        """Its clusters: ``sort`` is size, purity or tightness."""
        return list((await self._get("clusterer", f"/clusterings/{clustering_id}/clusters", options))["clusters"])

    async def download(self, /, clustering_id: str, what: str, target: Path, **options: Any) -> Path:
        """Save ``assignments``, ``report`` or ``contact-sheet`` of a clustering as the file ``target``."""
        request = Request("clusterer", "GET", f"/clusterings/{clustering_id}/{what}", options)
        async with self._open(request) as body:
            with target.open("wb") as file:
                async for piece in body.pieces():
                    file.write(piece)
        return target

    async def ready(self) -> dict[str, Json]:
        """Both services' readiness, by name; a service that does not answer has ``ready: false``."""
        answers: dict[str, Json] = {}
        for service, url in self._services.urls.items():
            try:
                answers[service] = (await self._transport.send(Request(service, "GET", "/readyz"))).json()
            except (httpx.HTTPError, ValueError) as error:
                answers[service] = {"ready": False, "checks": {"service": f"{url}: {error}"}}
        return answers

    async def _assign_vectors(self, path: str, query: Query, vectors: Vectors) -> Assignments:
        pieces = await self._transport.work(lambda: Pieces(vectors))
        found = []
        for start in pieces.starts():
            body = await self._transport.work(partial(pieces.body, start))
            headers = {"Content-Type": NPY, "Accept": ARROW}
            answer = await self._send(Request("clusterer", "POST", path, query, content=body, headers=headers))
            found.append(of_arrow(answer.content))
        return Assignments.of(found)

    async def _each(
        self, images: Image | Iterable[Image], batch: int, answer: Callable[[Chunk], Coroutine[object, None, T]]
    ) -> list[T]:
        """The answer to each request that ``images`` make, in order."""
        chunks = await self._transport.work(lambda: Chunks(images, batch))
        answers: dict[int, T] = {}

        async def worker() -> None:
            try:
                while (chunk := await self._transport.work(chunks.take)) is not None:
                    answers[chunk.start] = await answer(chunk)
            finally:
                chunks.stop()

        await self._transport.together(worker, chunks.workers)
        return [answers[start] for start in sorted(answers)]

    async def _send_images(
        self, service: Service, path: str, field: str, chunk: Chunk, fields: Json, query: Query | None = None
    ) -> httpx.Response:
        body = await self._transport.work(lambda: chunk.body(**fields, **{field: chunk.uris()}))
        headers = {"Content-Type": "application/json"}
        try:
            return await self._send(Request(service, "POST", path, query or {}, content=body, headers=headers))
        except ShoalError as error:
            raise chunk.placed(error) from None
