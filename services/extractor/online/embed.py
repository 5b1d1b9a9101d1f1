"""A job of kind ``embed:<backend>``: embeds the images that `extractor.online.inline` stored for one request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from shoal.errors import JsonValue, NotFinite, by_code
from shoal.host import available_cores
from shoal.jobs.child import JobContext
from shoal.settings import Settings

from extractor.backends.loading import ModelLoader
from extractor.images.child import DecoderConfig, ListedImage, Undecodable
from extractor.images.pool import DecodePool
from extractor.images.transform import Transform
from extractor.models import catalogue
from extractor.online.inline import InlineFolder, InlineRequest, InlineResult, image_name


def embed_inline(ctx: JobContext, settings: Settings) -> dict[str, JsonValue]:
    """Embed the images of one request.

    Returns
    -------
    dict
        An `InlineResult`.

    Raises
    ------
    ImageInvalid
        An image cannot be decoded; the message names its index.
    NotFinite
        The model's output for an image is not finite.
    """
    request = InlineRequest.model_validate(ctx.request)
    folder = InlineFolder(settings.store, request.inline)
    spec = catalogue.resolve(request.model, settings.models, settings=settings)
    pixels = _pixels(ctx, folder, request.count, spec.transform, settings)
    with ModelLoader(spec, settings, ctx) as model:
        backend = model.backend
        ctx.progress("embed", 0, request.count, "images")
        vectors = backend.submit(pixels).result()
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise NotFinite(f"The model's output for input {int(np.argmin(finite))} holds NaN or infinity.")
    folder.write(vectors)
    return InlineResult(inline=folder.token, rows=len(vectors), dim=int(vectors.shape[1])).model_dump()


def _pixels(
    ctx: JobContext, folder: InlineFolder, count: int, transform: Transform, settings: Settings
) -> NDArray[np.uint8]:
    """The pixels of all images, (count, size, size, 3), decoded by a pool with the limits of any other job."""
    root = folder.path.resolve()
    config = DecoderConfig(root, root, transform, settings.max_image_pixels, thumbnails=False)
    workers = min(count, settings.decode_workers or available_cores())
    pixels = np.empty((count, transform.size, transform.size, 3), np.uint8)
    with DecodePool(config, workers=workers, slots=min(count, 2 * workers)) as pool:
        images = (ListedImage((image_name(index),), None) for index in range(count))
        for item in pool.stream(images, waiting=ctx.raise_if_cancelled):
            if isinstance(item.outcome, Undecodable):
                detail = f"Input {item.index}: {item.outcome.message}"
                raise by_code({"code": item.outcome.code, "detail": detail, "input": item.index})
            if item.pixels is not None:
                pixels[item.index] = item.pixels
            pool.release(item)
    return pixels
