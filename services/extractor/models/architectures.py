"""Networks by name (timm's, and a few that published weights need and timm cannot name), and their embeddings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import timm
import torch
from shoal.errors import BackendNotInstalled, InvalidRequest, UnknownModel
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from extractor.models.published import OPEN_CLIP_PREFIX

Builder = Callable[[], nn.Module]
Embed = Callable[[Tensor], Tensor]
EMBEDDINGS = ("pooled", "cls", "patch_mean")


def build(architecture: str, *, size: int | None = None, seed: int | None = None) -> nn.Module:
    """The network called `architecture`, without classifier, in evaluation mode, on the CPU, randomly initialised.

    Parameters
    ----------
    architecture
        A key of `OWN`; a name of timm, with or without a tag; or ``open_clip:`` and a name of OpenCLIP.
    size
        Side of the input, pixels; None for the architecture's own. A transformer whose position embedding is made for
        another size keeps it as published and interpolates it when it runs.
    seed
        Makes the initialisation repeatable; the process's own random state is left as it was.

    Raises
    ------
    UnknownModel
        There is no such architecture.
    InvalidRequest
        The architecture takes another input size only.
    BackendNotInstalled
        OpenCLIP is not installed.
    """
    builder = _builder(architecture, size)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        return builder().eval()


def _builder(architecture: str, size: int | None) -> Builder:
    if architecture.startswith(OPEN_CLIP_PREFIX):
        if find_spec("open_clip") is None:
            raise BackendNotInstalled(f"{architecture!r} is a network of OpenCLIP: run `pip install 'shoal[clip]'`.")
        from extractor.models import clip

        return partial(clip.build, architecture.removeprefix(OPEN_CLIP_PREFIX), size)
    if architecture in OWN:
        return OWN[architecture]
    if not timm.is_model(architecture):
        raise UnknownModel(f"Neither timm {timm.__version__} nor Shoal defines the architecture {architecture!r}.")
    return partial(_of_timm, architecture, size)


def _of_timm(architecture: str, size: int | None) -> nn.Module:
    cfg = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    fixed = cfg is not None and cfg.fixed_input_size and size is not None and cfg.input_size[-1] != size
    options = {"dynamic_img_size": True} if fixed else {}
    try:
        network: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except TypeError as error:
        if not fixed:
            raise
        raise InvalidRequest(
            f"{architecture!r} takes only images of {cfg.input_size[-1]} pixels, not {size}: omit `transform.size`."
        ) from error
    return network


def resnet(layers: tuple[int, ...], *, groups: int = 1, group_width: int = 64, widen: int = 1) -> nn.Module:
    """A bottleneck ResNet of timm's parts, with torchvision's names, without classifier.

    Parameters
    ----------
    layers
        Blocks per stage.
    groups, group_width
        Of the 3 x 3 convolutions: ResNeXt's ``32x4d`` has 32 groups of width 4.
    widen
        Factor on the width of every convolution, the first included; the embedding has 2048 x `widen` dimensions.
    """
    stem = 64 * widen
    # timm's plain stem is always 64 wide. The deep one takes a width, and its convolutions are then exchanged.
    kind = {"stem_type": "deep", "stem_width": stem // 2} if widen > 1 else {}
    network = ResNet(
        Bottleneck,
        layers,
        num_classes=0,
        cardinality=groups,
        base_width=group_width,
        channels=tuple(stem * 2**stage for stage in range(4)),
        **kind,
    )
    if widen > 1:
        network.conv1 = nn.Conv2d(3, stem, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


OWN: dict[str, Builder] = {
    "resnet50_w2": partial(resnet, (3, 4, 6, 3), widen=2),
    "resnet50_w4": partial(resnet, (3, 4, 6, 3), widen=4),
    "resnet50_w5": partial(resnet, (3, 4, 6, 3), widen=5),
    "resnet200_w2": partial(resnet, (3, 24, 36, 3), widen=2),
    "resnext101_32x48d": partial(resnet, (3, 4, 23, 3), groups=32, group_width=48),
    "resnext152_32x4d": partial(resnet, (3, 8, 36, 3), groups=32, group_width=4),
    "resnext152_32x8d": partial(resnet, (3, 8, 36, 3), groups=32, group_width=8),
    # MoCo v3's ViT-S has 12 heads where everyone else's has 6: the same tensors, another function.
    "vit_small_patch16_224_heads12": partial(
        timm.create_model, "vit_small_patch16_224", pretrained=False, num_classes=0, num_heads=12
    ),
}
"""What `timm.create_model` cannot name."""


def embedder(module: nn.Module, embedding: str = "pooled") -> Embed:
    """A function from normalised pixels (n, 3, size, size) to embeddings (n, dim).

    Parameters
    ----------
    module
        A network without classifier, in evaluation mode.
    embedding
        ``pooled``: what the classifier would get. ``cls``: the class token after the last block and norm.
        ``patch_mean``: the mean over the patch tokens, or over the last feature map's positions. Anything else is the
        name of a module inside the network, whose output is averaged over its positions, if any.

    Raises
    ------
    InvalidRequest
        The network has no such value.
    """
    if embedding == "pooled":
        return lambda pixels: _flat(_pooled(module, pixels), embedding)
    if embedding == "cls":
        if getattr(module, "cls_token", None) is None:
            raise InvalidRequest("The architecture has no class token: set `embedding` to `pooled`.")
        return lambda pixels: _features(module, pixels)[:, 0]
    if embedding == "patch_mean":
        return lambda pixels: _patch_mean(module, _features(module, pixels))
    return _hooked(module, embedding)


def _pooled(module: nn.Module, pixels: Tensor) -> Tensor:
    if not hasattr(module, "forward_head"):
        output: Tensor = module(pixels)
        return output
    pooled: Tensor = module.forward_head(_features(module, pixels), pre_logits=True)
    return pooled


def _features(module: nn.Module, pixels: Tensor) -> Tensor:
    forward_features = getattr(module, "forward_features", None)
    if not callable(forward_features):
        raise InvalidRequest("The architecture has no features before pooling: set `embedding` to `pooled`.")
    features: Tensor = forward_features(pixels)
    return features


def _patch_mean(module: nn.Module, features: Tensor) -> Tensor:
    if features.ndim == 4 and getattr(module, "output_fmt", "NCHW") == "NHWC":
        return features.mean(dim=(1, 2))
    if features.ndim == 3:
        return features[:, int(getattr(module, "num_prefix_tokens", 0)) :].mean(dim=1)
    return _flat(features, "patch_mean")


def _hooked(module: nn.Module, name: str) -> Embed:
    inside = dict(module.named_modules())
    if name not in inside or not name:
        raise InvalidRequest(
            f"The architecture has no embedding {name!r}. Choose {', '.join(EMBEDDINGS)}, or one of its modules: "
            f"{', '.join(list(dict(module.named_children()))[:8])}."
        )

    def embed(pixels: Tensor) -> Tensor:
        found: list[Tensor] = []
        handle = inside[name].register_forward_hook(lambda _module, _args, output: found.append(output))
        try:
            module(pixels)
        finally:
            handle.remove()
        if not found or not isinstance(found[-1], Tensor):
            raise InvalidRequest(f"The module {name!r} does not return a tensor: choose another.")
        return _flat(found[-1], name)

    return embed


def _flat(output: Tensor, what: str) -> Tensor:
    """(n, dim) from (n, dim), (n, tokens, dim) or (n, dim, height, width)."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        raise InvalidRequest(f"The embedding {what!r} of this architecture is not an (n, dim) tensor: choose another.")
    if output.ndim == 3:
        return output.mean(dim=1)
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output.to(torch.float32)
