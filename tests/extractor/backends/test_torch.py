"""PyTorch networks: real weights, one embedding an image whatever the batch, seeds, devices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from extractor.backends.loading import open_backend, record_of
from extractor.backends.torch import TorchBackend, pick_device
from extractor.models import catalogue
from shoal.errors import JobError, WeightsMissing
from shoal.schemas import CustomModel
from shoal.settings import Settings


def load(settings: Settings, model: str | CustomModel) -> TorchBackend:
    spec = catalogue.resolve(model, settings.models, settings=settings)
    backend = open_backend(spec, settings, record_of(spec, settings))
    assert isinstance(backend, TorchBackend)
    return backend


def noise(count: int, size: int = 224) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorchBackend]:
    backend = load(Settings(models=tmp_path_factory.mktemp("models"), device="cpu"), "tf_efficientnet_lite0")
    yield backend
    backend.close()


def test_the_packaged_weights_are_the_published_ones(lite0: TorchBackend) -> None:
    assert lite0.record.weights_file == "efficientnet-lite0-57934424.pth"
    assert str(lite0.record.weights_sha256).startswith("57934424")
    assert lite0.dim == 1280


def test_an_embedding_does_not_depend_on_its_batch(lite0: TorchBackend) -> None:
    images = noise(5)
    together = lite0.submit(images).result()
    alone = np.concatenate([lite0.submit(images[i : i + 1]).result() for i in range(5)])
    backwards = lite0.submit(np.ascontiguousarray(images[::-1])).result()[::-1]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    np.testing.assert_allclose(backwards, together, atol=1e-5)


def test_the_same_batch_gives_the_same_bits(lite0: TorchBackend) -> None:
    images = noise(2)
    np.testing.assert_array_equal(lite0.submit(images).result(), lite0.submit(images).result())


def test_it_is_the_networks_own_pooled_output_on_normalised_pixels(lite0: TorchBackend) -> None:
    import timm
    from extractor.models import weights
    from extractor.models.checkpoints.loading import load_into

    spec = catalogue.resolve("tf_efficientnet_lite0", lite0_models := Settings().models)
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0).eval()
    located = weights.locate(spec, lite0_models)
    assert located is not None
    load_into(network, located)
    images = noise(2)
    with torch.inference_mode():
        normalised = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
        expected = network(normalised).numpy()
    np.testing.assert_allclose(lite0.submit(images).result(), expected, atol=1e-5)


def test_random_weights_follow_their_seed(settings: Settings) -> None:
    images = noise(1, 64)

    def embedding(seed: int) -> np.ndarray:
        model = CustomModel(architecture="resnet18", weights="random", seed=seed)
        backend = load(settings, model)
        try:
            return backend.submit(images).result()
        finally:
            backend.close()

    first = embedding(0)
    np.testing.assert_array_equal(embedding(0), first)
    assert np.abs(embedding(1) - first).max() > 1e-3


def test_missing_weights_say_what_to_put_where(settings: Settings) -> None:
    with pytest.raises(WeightsMissing, match=r"Put the file .* into"):
        load(settings, "timm:resnet18.a1_in1k")


@pytest.mark.parametrize(("wanted", "message"), [("gpu", "set it to auto"), ("cuda:99", "CUDA devices")])
def test_a_device_that_is_not_there_is_an_error_not_a_slow_job(wanted: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        pick_device(wanted)


def test_a_batch_that_does_not_fit_the_gpu_is_halved(lite0: TorchBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = lite0._forward

    def small_gpu(pixels: np.ndarray) -> np.ndarray:
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError
        return forward(pixels)

    images = noise(5)
    expected = lite0.submit(images).result()
    monkeypatch.setattr(lite0, "_forward", small_gpu)
    np.testing.assert_allclose(lite0.submit(images).result(), expected, atol=1e-5)
