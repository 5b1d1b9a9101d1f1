"""A host of TensorFlow's models: the same SavedModel, in the host and in a job."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from extractor.online import wire
from extractor.pipeline import extract
from extractor.tf_import.importing import import_savedmodel
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store

from tests.extractor.online.conftest import StartHost, photo, vectors_of

TENSORFLOW_S = 240.0
"""How long another process may take to import TensorFlow on a busy machine."""


@pytest.fixture
def models(builders: ModuleType, tmp_path: Path) -> Path:
    builders.simclr_tf2(tmp_path / "source", selective=True)
    import_savedmodel("small", tmp_path / "source", tmp_path / "models", transform={"size": 32, "crop_fraction": 1.0})
    return tmp_path / "models"


@pytest.mark.timeout(600)
def test_online_embeddings_are_those_of_a_job_bit_by_bit_and_a_new_version_takes_over(
    models: Path,
    tmp_path: Path,
    start_host: StartHost,
    client_settings: Callable[..., Settings],
    wait_until: Callable[..., None],
) -> None:
    settings = client_settings(0, models=models, tf_serving_url=None)
    images = [photo(seed) for seed in range(9)]
    for i, image in enumerate(images):
        path = settings.data / "set" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image)
    body = {"images": {"path": "set"}, "model": "small"}
    result = extract(JobContext.local(body, kind="extract:tfserving"), settings)
    embeddings = Store(settings.store).embeddings(result["embeddings"])
    bulk = np.concatenate([rows for _, rows in embeddings.iter_batches()])
    assert np.ptp(bulk, axis=0).max() > 0.01

    host = start_host(backend="tfserving", SHOAL_MODELS=str(models), TF_SERVING_URL="")
    host.http.timeout = TENSORFLOW_S
    answer = host.ask(images, "small", timeout_s=TENSORFLOW_S)
    np.testing.assert_array_equal(vectors_of(answer), bulk)
    assert answer.headers[wire.DIGEST] == host.models()["small"]["digest"]
    for image, row in zip(images[:3], bulk, strict=False):
        np.testing.assert_array_equal(host.vectors([image], "small"), [row])

    shutil.copytree(models / "small" / "1", models / "small" / ".2")
    (models / "small" / ".2").rename(models / "small" / "2")  # Whole at once, as an import does it.
    # The host looks at a model's files a few times a second.
    wait_until(
        lambda: (
            host.ask(images[:1], "small", timeout_s=TENSORFLOW_S).headers[wire.DIGEST] != answer.headers[wire.DIGEST]
        ),
        deadline_s=TENSORFLOW_S,
        what="the new version",
    )
    second = host.ask(images, "small", timeout_s=TENSORFLOW_S)
    np.testing.assert_array_equal(vectors_of(second), bulk)
    assert second.headers[wire.DIGEST] != answer.headers[wire.DIGEST]
