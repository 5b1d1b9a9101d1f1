"""Names that cannot be told by a pattern, because they depend on the network's blocks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def efficientnet_pytorch(module: nn.Module) -> dict[str, str]:
    """Names of lukemelas/EfficientNet-PyTorch and its ports to those of timm's EfficientNet `module`.

    Theirs numbers all blocks in one row, ours stage by stage; a block without expansion has one convolution less.
    Empty for a module that is no EfficientNet of timm.
    """
    stages = getattr(module, "blocks", None)
    if not isinstance(stages, nn.Sequential) or not hasattr(module, "conv_stem"):
        return {}
    pairs = [("_conv_stem", "conv_stem"), ("_bn0", "bn1"), ("_conv_head", "conv_head"), ("_bn1", "bn2")]
    number = 0
    for s, stage in enumerate(stages):
        for b, block in enumerate(stage):
            pairs += [(f"_blocks.{number}.{t}", f"blocks.{s}.{b}.{o}") for t, o in _block(block)]
            number += 1
    theirs = {ours: their for their, ours in pairs}
    names = {}
    for key in module.state_dict():
        part, _, tensor = key.rpartition(".")
        if part in theirs:
            names[f"{theirs[part]}.{tensor}"] = key
    return names


def _block(block: nn.Module) -> Iterator[tuple[str, str]]:
    if hasattr(block, "conv_pwl"):
        yield from (("_expand_conv", "conv_pw"), ("_bn0", "bn1"), ("_depthwise_conv", "conv_dw"), ("_bn1", "bn2"))
        yield from (("_project_conv", "conv_pwl"), ("_bn2", "bn3"))
    else:
        yield from (("_depthwise_conv", "conv_dw"), ("_bn1", "bn1"), ("_project_conv", "conv_pw"), ("_bn2", "bn2"))
    yield from (("_se_reduce", "se.conv_reduce"), ("_se_expand", "se.conv_expand"))
