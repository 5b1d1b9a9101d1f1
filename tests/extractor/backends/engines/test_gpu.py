"""The engines on a GPU, against eager float32 on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from extractor.backends.engines.numerics import missing
from extractor.backends.engines.opening import open_engine
from extractor.backends.loading import open_backend, record_of
from extractor.models import catalogue
from shoal.schemas import CustomModel
from shoal.settings import Settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MODELS = ("resnet50", "vit_small_patch16_224")
LEAST_COSINE = {None: 0.99999, "bf16": 0.999, "compile-bf16": 0.999}
TOLERANCE = {None: 1e-4, "bf16": 1e-2, "compile-bf16": 1e-2}
"""Of a row's length: how far a row may move with the other images of its batch."""


@pytest.mark.parametrize("numerics", LEAST_COSINE)
@pytest.mark.parametrize("architecture", MODELS)
def test_rows_are_those_of_the_cpu_in_any_batch(settings: Settings, architecture: str, numerics: str | None) -> None:
    model = CustomModel(architecture=architecture, weights="random", seed=0)
    gpu = settings.model_copy(update={"device": "cuda"})
    if numerics is not None and (why := missing(numerics, gpu)) is not None:
        pytest.skip(why)
    spec = catalogue.resolve(model, settings.models, settings=settings)
    images = np.random.default_rng(0).integers(0, 256, (70, 224, 224, 3), dtype=np.uint8)
    cpu = open_backend(spec, settings, record_of(spec, settings))
    expected = cpu.submit(images[:8]).result()
    cpu.close()
    record = record_of(spec, gpu)
    backend = open_backend(spec, gpu, record) if numerics is None else open_engine(spec, gpu, record, numerics)
    rows = backend.submit(images).result()
    alone = np.concatenate([backend.submit(images[at : at + 1]).result() for at in range(8)])
    backend.close()
    lengths = np.linalg.norm(expected, axis=1)
    cosines = (rows[:8] * expected).sum(1) / np.linalg.norm(rows[:8], axis=1) / lengths
    assert cosines.min() >= LEAST_COSINE[numerics]
    assert (np.linalg.norm(alone - rows[:8], axis=1) / lengths).max() <= TOLERANCE[numerics]
