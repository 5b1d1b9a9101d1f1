"""From listed images to embedded batches: decoding runs ahead, so that the network always has its next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.errors import JobError
from shoal.host import available_cores
from shoal.jobs.child import JobContext
from shoal.schemas import ExtractRequest
from shoal.settings import Settings

from extractor.backends.base import Backend
from extractor.images.child import Decoded, DecoderConfig, Undecodable
from extractor.images.located import LocatedImage
from extractor.images.pool import DecodePool, Item, prefetch_slots
from extractor.models.spec import ModelSpec
from extractor.sources.reading import located_images
from extractor.sources.source import Place, Row
from extractor.stream.busy import Clock

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive images of the stream.

    Attributes
    ----------
    outcomes
        One per image, in the order of the stream.
    vectors
        (m, dim) float32: a row for each `Decoded`, in their order.
    """

    outcomes: tuple[Decoded | Undecodable, ...]
    vectors: NDArray[np.float32]


def decode_pool(request: ExtractRequest, spec: ModelSpec, settings: Settings) -> DecodePool:
    """A pool that decodes the images of ``request`` with the transform of ``spec``."""
    place = Place.of(request.images, settings.data, follow_links=settings.follow_links)
    config = DecoderConfig(
        root=place.links_root,
        folder=place.folder,
        transform=spec.transform,
        max_pixels=settings.max_image_pixels,
        thumbnails=request.thumbnails,
    )
    workers = settings.decode_workers or available_cores()
    return DecodePool(
        config, workers=workers, slots=prefetch_slots(config.slot_bytes, workers, min(request.batch_size, 1024))
    )


def sample_pixels(
    ctx: JobContext, pool: DecodePool, request: ExtractRequest, settings: Settings, listing: pa.Table, count: int
) -> NDArray[np.uint8]:
    """About ``count`` images from all over ``listing``, (n, size, size, 3); those that cannot be decoded are left out.

    The same listing gives the same images.
    """
    at = np.unique(np.linspace(0, max(listing.num_rows - 1, 0), min(count, listing.num_rows)).astype(np.int64))
    chosen = listing.select(["image_path", "stamp"]).take(pa.array(at))
    rows = (Row(*row) for row in zip(*(column.to_pylist() for column in chosen.columns), strict=True))
    place = Place.of(request.images, settings.data, follow_links=settings.follow_links)
    found = []
    for item in pool.stream(located_images(rows, place), waiting=ctx.raise_if_cancelled):
        if item.pixels is not None:
            found.append(item.pixels.copy())
            pool.release(item)
    size = pool.config.transform.size
    return np.stack(found) if found else np.empty((0, size, size, 3), np.uint8)


def batches(
    ctx: JobContext,
    pool: DecodePool,
    backend: Backend,
    images: Iterable[LocatedImage],
    batch_size: int,
    network: Clock | None = None,
) -> Iterator[Batch]:
    """Decode and embed ``images``; batches come in order, up to ``backend.max_in_flight`` run at once.

    Parameters
    ----------
    network
        Runs while the backend computes.

    Raises
    ------
    Cancelled
        The job was cancelled.
    JobError
        The backend did not return one row per image.
    """
    running: deque[tuple[list[Item], Future[NDArray[np.float32]] | None]] = deque()
    for items, pixels in _decoded(ctx, pool, images, batch_size, backend.transform.size):
        running.append((items, _submit(backend, pixels, network or Clock()) if len(pixels) else None))
        while len(running) >= max(backend.max_in_flight, 1) + 1 or (running and _is_done(running[0][1])):
            yield _take(ctx, backend, *running.popleft())
    while running:
        yield _take(ctx, backend, *running.popleft())


def _decoded(
    ctx: JobContext, pool: DecodePool, images: Iterable[LocatedImage], batch_size: int, size: int
) -> Iterator[tuple[list[Item], NDArray[np.uint8]]]:
    """Images with the pixels of those that could be decoded, (m, size, size, 3) with m ≤ ``batch_size``."""
    items: list[Item] = []
    pixels = np.empty((batch_size, size, size, 3), np.uint8)
    filled = 0
    for item in pool.stream(images, waiting=ctx.raise_if_cancelled):
        items.append(item)
        if item.pixels is not None:
            pixels[filled] = item.pixels
            filled += 1
            pool.release(item)
        if filled == batch_size or len(items) >= 4 * batch_size:
            yield items, pixels[:filled]
            items, pixels, filled = [], np.empty_like(pixels), 0
    if items:
        yield items, pixels[:filled]


def _submit(backend: Backend, pixels: NDArray[np.uint8], network: Clock) -> Future[NDArray[np.float32]]:
    network.begin()
    try:
        future = backend.submit(pixels)
    except BaseException:
        network.end()
        raise
    future.add_done_callback(network.end)
    return future


def _is_done(future: Future[NDArray[np.float32]] | None) -> bool:
    return future is None or future.done()


def _take(ctx: JobContext, backend: Backend, items: list[Item], future: Future[NDArray[np.float32]] | None) -> Batch:
    outcomes = tuple(item.outcome for item in items)
    if future is None:
        return Batch(outcomes, np.empty((0, backend.dim), np.float32))
    vectors = _wait(ctx, future)
    expected = (sum(isinstance(outcome, Decoded) for outcome in outcomes), backend.dim)
    if vectors.shape != expected:
        raise JobError(f"The model {backend.record.name} returned shape {vectors.shape}; expected {expected}.")
    return Batch(outcomes, vectors)


def _wait(ctx: JobContext, future: Future[NDArray[np.float32]]) -> NDArray[np.float32]:
    while True:
        ctx.raise_if_cancelled()
        try:
            return future.result(timeout=POLL_S)
        except TimeoutError:
            if future.done():  # The model itself raised it.
                raise
