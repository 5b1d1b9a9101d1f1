"""Calls that are answered within the request, without a job: embeddings, clusters and neighbours of new images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

import httpx

from shoal.client.images import MAX_IMAGES, Chunk, Chunks, Image
from shoal.client.requests import Query, Request, Service
from shoal.client.search import Neighbour, found_in, image_of, vector_of
from shoal.client.sending import Sending
from shoal.client.tables import Rows
from shoal.client.transport import T
from shoal.client.vectors import Assignments, Json, Pieces, Vector, Vectors, embeddings_of, of_arrow, of_json
from shoal.errors import InvalidRequest, ShoalError
from shoal.inline import ARROW, NPY

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


class OnlineCalls(Sending):
    """The methods of both clients about new images; parameters as in `Client`."""

    async def models(self) -> Rows[Json]:
        """The catalogue."""
        return Rows((await self._get("extractor", "/models"))["models"])

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
        text: str | None = None,
        k: int = 10,
    ) -> Rows[Neighbour]:
        """The rows of an embeddings set most similar to a row, an image, a vector or a text, the nearest first.

        Parameters
        ----------
        embeddings
            An embeddings' id.
        row
            The number of one of its rows, which is left out of the answer. Exactly one of the four is given.
        image
            One image, as `embed` takes it; the model is that of the embeddings.
        vector
            ``(dim,)``: an embedding of that model.
        text
            What the images show, in words; that model must embed texts too, such as ``open_clip:ViT-B-32``.
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
        values = None if vector is None else vector_of(vector)
        sought: Json = {"row": row, "vector": values, "text": text}
        given = {name: value for name, value in sought.items() if value is not None}
        if len(given) + (image is not None) != 1:
            raise InvalidRequest("Give exactly one of `row`, `image`, `vector` and `text`.")
        body: Json = {"embeddings": embeddings, "k": k, **given}
        if image is None:
            answer = await self._send(Request("clusterer", "POST", "/search", json=body))
            return found_in(answer.json())
        chunk = await self._transport.work(lambda: image_of(image))
        body["image"] = chunk.uris()[0]
        try:
            return found_in((await self._send(Request("clusterer", "POST", "/search", json=body))).json())
        except ShoalError as error:
            raise chunk.placed(error) from None

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
