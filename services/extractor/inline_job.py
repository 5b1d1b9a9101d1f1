"""The worker's side of `extractor.inline`: embeds the images of one request."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from shoal.errors import ImageInvalid, NotFinite
from shoal.jobs.child import JobContext
from shoal.settings import Settings

from extractor import catalogue
from extractor.images import decode_image, read_image_file
from extractor.inline import InlineFolder, InlineRequest, InlineResult, image_name
from extractor.model import Model
from extractor.modelspec import Transform
from extractor.preprocess import network_input


def run(ctx: JobContext, settings: Settings) -> dict[str, Any]:
    """Embed the images of one request, in this process: there are too few to start others for.

    Returns
    -------
    dict
        An `InlineResult`.

    Raises
    ------
    ImageInvalid
        An image cannot be decoded; the message says which.
    NotFinite
        The model's output for an image is not finite.
    """
    request = InlineRequest.model_validate(ctx.request)
    folder = InlineFolder(settings.store, request.inline)
    spec = catalogue.resolve(request.model, settings.models, settings=settings)
    pixels = _pixels(folder, request.count, spec.transform, settings.max_image_pixels)
    with Model(spec, settings, ctx) as model:
        backend = model.backend
        ctx.progress("embed", 0, request.count, "images")
        vectors = backend.submit(pixels).result()
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise NotFinite(f"The model's output for input {int(np.argmin(finite))} holds NaN or infinity.")
    folder.write(vectors)
    return InlineResult(inline=folder.token, rows=len(vectors), dim=int(vectors.shape[1])).model_dump()


def _pixels(folder: InlineFolder, count: int, transform: Transform, max_pixels: int) -> NDArray[np.uint8]:
    root = folder.path.resolve()
    pixels = np.empty((count, transform.size, transform.size, 3), np.uint8)
    for index in range(count):
        try:
            image = decode_image(read_image_file(root, root / image_name(index)), max_pixels=max_pixels)
            pixels[index] = network_input(image, transform, max_pixels=max_pixels)
        except ImageInvalid as error:
            raise type(error)(f"Input {index}: {error.detail}", input=index) from error
    return pixels
