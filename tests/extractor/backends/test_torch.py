"""PyTorch networks: real weights, one embedding an image whatever the batch, seeds, devices."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from extractor.backends.loading import open_backend, record_of
from extractor.backends.same_bits import use_onednn
from extractor.backends.torch import TorchBackend, pick_device
from extractor.models import architectures, catalogue
from shoal.errors import JobError, WeightsMissing
from shoal.schemas import CustomModel, TransformOverride
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


@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_an_image_gets_the_same_bits_in_every_batch(settings: Settings, architecture: str) -> None:
    backend = load(settings, CustomModel(architecture=architecture, weights="random", seed=0))
    images = noise(11)
    alone = np.concatenate([backend.submit(images[i : i + 1]).result() for i in range(11)])
    order = np.random.default_rng(0).permutation(11)
    for count in (2, 3, 4, 7, 11):
        for chosen in (np.arange(count), order[:count], order[-count:]):
            np.testing.assert_array_equal(backend.submit(images[chosen]).result(), alone[chosen])
    backend.close()
    assert max(backend._parts or ()) > 1


def test_two_processes_give_the_same_bits(lite0: TorchBackend, tmp_path: Path) -> None:
    images = noise(5)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys\nimport numpy as np\nfrom pathlib import Path\nfrom shoal.settings import Settings\n"
        "import torch\nfrom extractor.backends.loading import open_backend, record_of\n"
        "from extractor.models import catalogue\n"
        "folder = Path(sys.argv[1])\nsettings = Settings(models=folder, device='cpu')\n"
        "torch.set_num_threads(int(sys.argv[2]))\n"
        "spec = catalogue.resolve('tf_efficientnet_lite0', settings.models, settings=settings)\n"
        "backend = open_backend(spec, settings, record_of(spec, settings))\n"
        "np.save(folder / 'rows.npy', backend.submit(np.load(folder / 'images.npy')).result())\nbackend.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), str(torch.get_num_threads())], check=True)
    alone = np.concatenate([lite0.submit(images[i : i + 1]).result() for i in range(5)])
    np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), alone)


def sum_of_batch(counts: set[int]) -> torch.nn.Module:
    """A network that adds a little of each batch's sum to its rows, in batches of some sizes."""

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        rows = pixels.mean(dim=(2, 3))
        return rows + 1e-6 * rows.sum() if len(rows) in counts else rows

    network = torch.nn.Identity()
    network.forward = forward
    return network


@pytest.mark.parametrize(("unequal", "expected"), [(set(), (16, 4, 1)), ({16}, (4, 1)), ({4, 16}, (1,))])
def test_a_network_whose_batches_differ_takes_images_in_parts_that_do_not(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, unequal: set[int], expected: tuple[int, ...]
) -> None:
    monkeypatch.setattr(architectures, "build", lambda *_, **__: sum_of_batch(unequal))
    transform = TransformOverride(size=112)
    backend = load(settings, CustomModel(architecture="resnet18", weights="random", seed=0, transform=transform))
    assert backend._parts == expected
    images = noise(22, 112)
    alone = np.concatenate([backend.submit(images[i : i + 1]).result() for i in range(22)])
    np.testing.assert_array_equal(backend.submit(images).result(), alone)
    backend.close()


def test_convolutions_of_few_values_are_those_of_a_larger_batch() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(64, 96, 1), torch.nn.Conv2d(96, 64, 3, padding=1, padding_mode="circular")
    )
    use_onednn(network)
    images = torch.randn(2, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network[0](images[:1]), network[0](images)[:1])
        torch.testing.assert_close(network[0](images), torch.nn.Conv2d.forward(network[0], images))
    assert "forward" not in vars(network[1])


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
