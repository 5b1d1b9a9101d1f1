"""From listed images to embedded batches: decoding runs ahead, so that the network always has its next batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from shoal.errors import JobError
from shoal.host import available_cores
from shoal.jobs.child import JobContext
from shoal.schemas import ExtractRequest
from shoal.settings import Settings

from extractor.backends.base import Backend
from extractor.images.child import Decoded, DecoderConfig, Stored, Undecodable
from extractor.images.located import LocatedImage
from extractor.images.pool import DecodePool, Item, prefetch_slots
from extractor.jobs.reuse import ReusedRow, StoredRows
from extractor.models.spec import ModelSpec
from extractor.remote.fetcher import Fetcher
from extractor.sources.reading import located_images
from extractor.sources.source import Place, Row
from extractor.stream.busy import Clock

POLL_S = 0.5
LOOKUP_ROWS = 256
"""Stored rows that are read together: as many as a row group of thumbnails has."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive images of the stream.

    Attributes
    ----------
    outcomes
        One per image, in the order of the stream.
    vectors
        (m, dim) float32: a row for each `Decoded`, in their order.
    stored
        (m,): which of these rows come from stored sets.
    """

    outcomes: tuple[Decoded | Undecodable, ...]
    vectors: NDArray[np.float32]
    stored: NDArray[np.bool_]

    @property
    def reused(self) -> int:
        """How many rows come from stored sets."""
        return int(self.stored.sum())


@dataclass(slots=True)
class _Group:
    """Images of the stream that become a batch, without the pixels.

    Attributes
    ----------
    reused
        The rows among the embedded images that are not computed, and their vectors.
    """

    outcomes: list[Decoded | Undecodable] = field(default_factory=list)
    rows: int = 0
    reused: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def add(self, outcome: Decoded | Undecodable, vector: NDArray[np.float32] | None = None) -> None:
        self.outcomes.append(outcome)
        if vector is not None:
            self.reused[self.rows] = vector
        self.rows += isinstance(outcome, Decoded)

    @property
    def computed(self) -> int:
        """How many images the network embeds."""
        return self.rows - len(self.reused)


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
    ctx: JobContext,
    pool: DecodePool,
    fetcher: Fetcher,
    request: ExtractRequest,
    settings: Settings,
    listing: pa.Table,
    count: int,
) -> NDArray[np.uint8]:
    """About ``count`` images from all over ``listing``, (n, size, size, 3); those that cannot be decoded are left out.

    The same listing gives the same images.
    """
    at = np.unique(np.linspace(0, max(listing.num_rows - 1, 0), min(count, listing.num_rows)).astype(np.int64))
    chosen = listing.select(["image_path", "stamp"]).take(pa.array(at))
    rows = (Row(*row) for row in zip(*(column.to_pylist() for column in chosen.columns), strict=True))
    place = Place.of(request.images, settings.data, follow_links=settings.follow_links)
    found = []
    for item in pool.stream(located_images(rows, place, fetcher), waiting=ctx.raise_if_cancelled):
        if item.pixels is not None:
            found.append(item.pixels.copy())
            pool.release(item)
    size = pool.config.transform.size
    return np.stack(found) if found else np.empty((0, size, size, 3), np.uint8)


def batches(
    ctx: JobContext,
    pool: DecodePool,
    backend: Backend,
    images: Iterable[LocatedImage | None],
    batch_size: int,
    network: Clock | None = None,
    stored: StoredRows | None = None,
) -> Iterator[Batch]:
    """Decode and embed ``images``; batches come in order, up to ``backend.max_in_flight`` run at once.

    Parameters
    ----------
    network
        Runs while the backend computes.
    stored
        An image whose content it has is neither decoded nor embedded.

    Raises
    ------
    Cancelled
        The job was cancelled.
    JobError
        The backend did not return one row per image.
    """
    running: deque[tuple[_Group, Future[NDArray[np.float32]] | None]] = deque()
    for group, pixels in _decoded(ctx, pool, images, batch_size, backend.transform.size, stored):
        running.append((group, _submit(backend, pixels, network or Clock()) if len(pixels) else None))
        while len(running) >= max(backend.max_in_flight, 1) + 1 or (running and _is_done(running[0][1])):
            yield _take(ctx, backend, *running.popleft())
    while running:
        yield _take(ctx, backend, *running.popleft())


def _decoded(
    ctx: JobContext,
    pool: DecodePool,
    images: Iterable[LocatedImage | None],
    batch_size: int,
    size: int,
    stored: StoredRows | None,
) -> Iterator[tuple[_Group, NDArray[np.uint8]]]:
    """Images with the pixels of those that are to be computed, (m, size, size, 3) with m ≤ ``batch_size``."""
    group = _Group()
    pixels = np.empty((batch_size, size, size, 3), np.uint8)
    for item in _looked_up(ctx, pool, images, stored):
        if isinstance(item, ReusedRow):
            group.add(item.outcome, item.vector)
        elif not isinstance(item.outcome, Stored):
            if item.pixels is not None:
                pixels[group.computed] = item.pixels
                pool.release(item)
            group.add(item.outcome)
        if group.computed == batch_size or len(group.outcomes) >= 4 * batch_size:
            yield group, pixels[: group.computed]
            group, pixels = _Group(), np.empty_like(pixels)
    if group.outcomes:
        yield group, pixels[: group.computed]


def _looked_up(
    ctx: JobContext, pool: DecodePool, images: Iterable[LocatedImage | None], stored: StoredRows | None
) -> Iterator[Item | ReusedRow]:
    """What the pool makes of ``images``, with stored rows for contents that have one."""
    waiting: list[Item] = []
    for item in pool.stream(images, waiting=ctx.raise_if_cancelled):
        known = stored is not None and isinstance(item.outcome, Stored)
        if known:
            waiting.append(item)
        if stored is not None and waiting and (not known or len(waiting) >= LOOKUP_ROWS):
            yield from _rows_of(ctx, pool, waiting, stored)
            waiting = []
        if not known:
            yield item
    if stored is not None:
        yield from _rows_of(ctx, pool, waiting, stored)


def _rows_of(
    ctx: JobContext, pool: DecodePool, items: Sequence[Item], stored: StoredRows
) -> Iterator[Item | ReusedRow]:
    """The stored rows, in order; where one cannot be read after all, the decoded image."""
    found = stored.rows([item.outcome for item in items if isinstance(item.outcome, Stored)])
    for item in items:
        row = found.get(item.index)
        if row is not None:
            yield row
        elif item.image is not None:
            yield pool.decode_anew(item.image, waiting=ctx.raise_if_cancelled)


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


def _take(ctx: JobContext, backend: Backend, group: _Group, future: Future[NDArray[np.float32]] | None) -> Batch:
    vectors = np.empty((0, backend.dim), np.float32) if future is None else _wait(ctx, future)
    expected = (group.computed, backend.dim)
    if vectors.shape != expected:
        raise JobError(f"The model {backend.record.name} returned shape {vectors.shape}; expected {expected}.")
    stored = np.zeros(group.rows, np.bool_)
    if group.reused:
        computed, vectors = vectors, np.empty((group.rows, backend.dim), np.float32)
        places = list(group.reused)
        vectors[np.delete(np.arange(group.rows), places)] = computed
        vectors[places] = np.stack(list(group.reused.values()))
        stored[places] = True
    return Batch(tuple(group.outcomes), vectors, stored)


def _wait(ctx: JobContext, future: Future[NDArray[np.float32]]) -> NDArray[np.float32]:
    while True:
        ctx.raise_if_cancelled()
        try:
            return future.result(timeout=POLL_S)
        except TimeoutError:
            if future.done():  # The model itself raised it.
                raise
