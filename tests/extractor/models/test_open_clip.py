"""Models of OpenCLIP by name, from the index that stands in for the library."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from extractor.models import catalogue, published
from extractor.models.architectures import build, embedder
from extractor.models.checkpoints.loading import load_into
from shoal.errors import InvalidRequest, UnknownModel
from shoal.schemas import CustomModel


def test_a_name_gives_input_width_and_address(tmp_path: Path) -> None:
    spec = catalogue.resolve("open_clip:ViT-B-32.laion2b_s34b_b79k", tmp_path)
    assert (spec.dim, spec.reads_text, spec.architecture) == (512, True, "open_clip:ViT-B-32")
    assert (spec.transform.size, spec.transform.crop_fraction, spec.transform.crop_mode) == (224, 1.0, "center")
    assert spec.transform.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert spec.weights.url == (
        "https://huggingface.co/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main/open_clip_model.safetensors"
    )
    assert spec.readiness(tmp_path) == "downloadable"
    assert spec.needs(served_elsewhere=False) is None


def test_weights_with_another_activation_have_their_own_network(tmp_path: Path) -> None:
    assert catalogue.resolve("open_clip:ViT-B-32.openai", tmp_path).architecture == "open_clip:ViT-B-32-quickgelu"


def test_a_model_whose_tokeniser_is_a_download_embeds_images_only(tmp_path: Path) -> None:
    spec = catalogue.resolve("open_clip:ViT-B-16-SigLIP", tmp_path)
    assert (spec.reads_text, spec.transform.crop_mode, spec.transform.mean) == (False, "squash", (0.5, 0.5, 0.5))


@pytest.mark.parametrize("name", ["open_clip:ViT-B-33", "open_clip:ViT-B-32.laion", "open_clip:"])
def test_an_unknown_name_lists_similar_ones(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="OpenCLIP has no model") as caught:
        catalogue.resolve(name, tmp_path)
    near = caught.value.members["near"]
    assert isinstance(near, list)
    assert all(str(each).startswith("open_clip:") for each in near)


def test_the_index_describes_the_installed_library() -> None:
    names = set(published.open_clip_names())
    assert {"ViT-B-32", "RN50", "ViT-L-14.openai"} <= names
    assert {name.partition(".")[0] for name in names} <= set(open_clip.list_models())


def test_a_published_file_fills_both_towers(tmp_path: Path) -> None:
    theirs = open_clip.create_model("ViT-S-32-alt").eval()
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "a.pt"
    )
    network = build("open_clip:ViT-S-32-alt", size=224)
    assert load_into(network, tmp_path / "a.pt", "auto").filled == len(theirs.state_dict())
    pixels = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(embedder(network)(pixels), theirs.encode_image(pixels))


def test_an_input_size_that_the_network_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="takes only images of 224 pixels, not 64"):
        build("open_clip:ViT-S-32-alt", size=64)
    model = CustomModel(architecture="open_clip:ViT-S-32-alt", weights="random", seed=4)
    assert catalogue.resolve(model, tmp_path).name == "open_clip:ViT-S-32-alt-random4"
