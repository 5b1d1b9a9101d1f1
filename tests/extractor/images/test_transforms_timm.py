"""What a network sees and what we take from it, against timm's own code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from extractor.images.preprocess import network_input
from extractor.models import architectures, catalogue
from extractor.models.checkpoints.loading import load_into
from PIL import Image
from shoal.errors import InvalidRequest
from timm.data import create_transform, resolve_data_config, resolve_model_data_config
from torch import Tensor, nn

FAMILIES = {
    "tf_efficientnet_lite4": "tf_efficientnet_lite4.in1k",
    "mobilenetv4_small": "mobilenetv4_conv_small.e2400_r224_in1k",
    "resnet50_supervised": "resnet50.tv_in1k",
    "gluon_resnet152_v1s": "resnet152s.gluon_in1k",
    "tf_efficientnet_l2_ns_475": "tf_efficientnet_l2.ns_jft_in1k_475",
    "convnext_base": "convnext_base.fb_in22k",
    "convnextv2_tiny": "convnextv2_tiny.fcmae_ft_in22k_in1k",
    "vit_small16_dino": "vit_small_patch16_224.dino",
    "vit_base_mae": "vit_base_patch16_224.mae",
    "dinov2_small": "vit_small_patch14_dinov2.lvd142m",
    "dinov3_small": "vit_small_patch16_dinov3.lvd1689m",
    "clip_base": "vit_base_patch16_clip_quickgelu_224.openai",
    "siglip2_base": "vit_base_patch16_siglip_256.v2_webli",
    "eva02_base": "eva02_base_patch14_224.mim_in22k",
    "timm:dm_nfnet_f0": "dm_nfnet_f0.dm_in1k",
}
"""A catalogue model of each family, and its name in timm; the last one is squashed instead of cropped."""

SMALL = {
    "tf_efficientnet_lite0": 64,
    "mobilenetv4_conv_small": 64,
    "resnet18": 64,
    "resnet10t": 64,
    "convnext_atto": 64,
    "convnextv2_atto": 64,
    "vit_tiny_patch16_224": 224,
    "deit_tiny_distilled_patch16_224": 224,
    "eva02_tiny_patch14_224": 224,
    "regnetx_002": 64,
    "mobilenetv3_small_050": 64,
    "efficientvit_b0": 64,
    "levit_128s": 224,
    "pvt_v2_b0": 64,
}
"""A small architecture of each family, and a size of input that it takes."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(width).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(640, 480), (333, 501), (97, 64), (224, 224)], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_input_is_timms_pixel_for_pixel(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    transform = catalogue.resolve(name, tmp_path).transform
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(FAMILIES[name]).to_dict())
    image = picture(*size)
    pixels = network_input(image, transform, max_pixels=10**8)
    expected = create_transform(**config, is_training=False, normalize=False)(image)
    np.testing.assert_array_equal(pixels, expected.permute(1, 2, 0).numpy())
    assert transform.mean == pytest.approx(config["mean"])
    assert transform.std == pytest.approx(config["std"])


def test_the_configuration_compared_is_the_models_own() -> None:
    network = timm.create_model("mobilenetv4_conv_small.e2400_r224_in1k", pretrained=False)
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(FAMILIES["mobilenetv4_small"]).to_dict())
    assert resolve_model_data_config(network) == config


def randomised(module: nn.Module) -> nn.Module:
    """`module` with BatchNorm's and LayerNorm's numbers moved away from one and zero."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return module.eval()


def noise(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("architecture", SMALL)
def test_the_embedding_is_what_the_classifier_would_get(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    complete = randomised(timm.create_model(architecture, pretrained=False))
    torch.save(complete.state_dict(), tmp_path / "w.pth")
    network = architectures.build(architecture, size=timm.get_pretrained_cfg(architecture).input_size[-1])
    load_into(network, tmp_path / "w.pth", "timm")
    x = noise(SMALL[architecture])
    with torch.inference_mode():
        expected = complete.forward_head(complete.forward_features(x), pre_logits=True)
        got = architectures.embedder(network)(x)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert got.shape[1] == catalogue.resolve(f"timm:{architecture}", tmp_path).dim


def test_every_architecture_of_the_catalogue_can_be_built(tmp_path: Path) -> None:
    for spec in catalogue.all_models(tmp_path):
        if spec.backend != "torch":
            continue
        known = spec.architecture in architectures.OWN or timm.is_model(spec.architecture)
        assert known or spec.architecture == "pixels", spec.name


@pytest.mark.parametrize(("architecture", "dim"), [("resnext152_32x4d", 2048), ("resnet50_w2", 4096)])
def test_what_timm_cannot_name_has_torchvisions_tensors(architecture: str, dim: int) -> None:
    import torchvision

    options = {"groups": 32, "width_per_group": 4} if "32x4d" in architecture else {}
    with torch.device("meta"):
        reference = torchvision.models.resnet.ResNet(
            torchvision.models.resnet.Bottleneck, [3, 8, 36, 3] if options else [3, 4, 6, 3], **options
        )
        network = architectures.OWN[architecture]()
    widen = dim // 2048
    expected = {k: tuple(v.shape) for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    found = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert found.keys() == expected.keys()
    for key, shape in expected.items():
        inputs = shape[1:2] if key == "conv1.weight" else tuple(n * widen for n in shape[1:2])
        assert found[key] == tuple(n * widen for n in shape[:1]) + inputs + shape[2:], key


def test_moco_v3s_small_transformer_has_twelve_heads() -> None:
    with torch.device("meta"):
        network = architectures.OWN["vit_small_patch16_224_heads12"]()
    assert {block.attn.num_heads for block in network.blocks} == {12}


def test_a_seed_makes_the_same_network_and_touches_nothing_else() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = (architectures.build("resnet10t", seed=s).conv1[0].weight for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.rand(1), expected)


def test_a_transformer_runs_at_another_size_with_its_published_positions() -> None:
    network = architectures.build("vit_tiny_patch16_224", size=96)
    assert network.pos_embed.shape[1] == 197
    with torch.inference_mode():
        assert architectures.embedder(network)(noise(96)).shape == (2, 192)


@pytest.fixture(scope="module")
def transformer() -> nn.Module:
    return randomised(timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False, num_classes=0))


@pytest.fixture(scope="module")
def convolutions() -> nn.Module:
    return randomised(timm.create_model("resnet10t", pretrained=False, num_classes=0))


def test_class_token_and_patches_of_a_transformer(transformer: nn.Module) -> None:
    x = noise(224)
    with torch.inference_mode():
        tokens = transformer.forward_features(x)
        torch.testing.assert_close(architectures.embedder(transformer, "cls")(x), tokens[:, 0])
        torch.testing.assert_close(architectures.embedder(transformer, "patch_mean")(x), tokens[:, 2:].mean(1))


def test_a_named_module_of_a_transformer_and_of_a_convolutional_network(
    transformer: nn.Module, convolutions: nn.Module
) -> None:
    x = noise(224)
    with torch.inference_mode():
        assert architectures.embedder(transformer, "blocks.3")(x).shape == (2, 192)
        pooled = architectures.embedder(convolutions, "layer4")(x)
        torch.testing.assert_close(pooled, architectures.embedder(convolutions)(x))
        assert architectures.embedder(convolutions, "layer2")(x).shape == (2, 128)
        torch.testing.assert_close(pooled, architectures.embedder(convolutions, "patch_mean")(x))


def test_features_with_channels_last_are_averaged_over_positions() -> None:
    network = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=0, depths=(1, 1, 1, 1))
    with torch.inference_mode():
        assert architectures.embedder(network.eval(), "patch_mean")(noise(224)).shape == (2, 768)


@pytest.mark.parametrize("kind", ["cls", "layer5", "", "layer4.7"])
def test_an_embedding_that_is_not_there_is_refused(kind: str, convolutions: nn.Module) -> None:
    with pytest.raises(InvalidRequest, match=r"class token|no embedding"):
        architectures.embedder(convolutions, kind)
