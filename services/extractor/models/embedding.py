"""Which of a network's values are the embedding."""

from __future__ import annotations

from collections.abc import Callable

import torch
from shoal.errors import InvalidRequest
from torch import Tensor, nn

KINDS = ("pooled", "cls", "patch_mean")

Embed = Callable[[Tensor], Tensor]


def embedder(module: nn.Module, embedding: str = "pooled") -> Embed:
    """A function from normalised pixels (n, 3, size, size) to embeddings (n, dim).

    Parameters
    ----------
    module
        A network without classifier, in evaluation mode.
    embedding
        ``pooled``: what the classifier would get. ``cls``: the class token after the last block and norm.
        ``patch_mean``: the mean over the patch tokens, or over the last feature map's positions. Anything else is the
        name of a module inside the network, whose output is averaged over positions where it has any.

    Raises
    ------
    InvalidRequest
        The network has no such value.
    """
    if embedding == "pooled":
        return lambda pixels: _flat(_pooled(module, pixels), embedding)
    if embedding == "cls":
        if getattr(module, "cls_token", None) is None:
            raise InvalidRequest("The architecture has no class token: ask for the embedding `pooled`.")
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
        raise InvalidRequest("The architecture gives no features before pooling: ask for the embedding `pooled`.")
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
            f"The architecture has no embedding {name!r}. Say {', '.join(KINDS)}, or one of its modules, such as "
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
            raise InvalidRequest(f"The module {name!r} gives no tensor: choose another one.")
        return _flat(found[-1], name)

    return embed


def _flat(output: Tensor, what: str) -> Tensor:
    """(n, dim) from (n, dim), (n, tokens, dim) or (n, dim, height, width)."""
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        raise InvalidRequest(f"The embedding {what!r} of this architecture is no (n, dim) tensor: choose another one.")
    if output.ndim == 3:
        return output.mean(dim=1)
    return output.mean(dim=(2, 3)) if output.ndim == 4 else output.to(torch.float32)
