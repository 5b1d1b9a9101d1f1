"""What makes an image's embedding the same bits, whatever else is in its batch, on a CPU in float32.

PyTorch computes a convolution of few values with another library when its batch has one image than when it has two: the
sums differ in their last bits. Here oneDNN computes all of them.

References
----------
``use_mkldnn`` in PyTorch's ``aten/src/ATen/native/Convolution.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def use_onednn(network: nn.Module) -> None:
    """Have oneDNN compute the convolutions of ``network``; those of classes of their own stay as they are."""
    if not torch.backends.mkldnn.is_available():
        return
    for module in network.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            module.forward = partial(_convolve, module)


def _convolve(module: nn.Conv2d, pixels: torch.Tensor) -> torch.Tensor:
    return torch.mkldnn_convolution(
        pixels, module.weight, module.bias, module.padding, module.stride, module.dilation, module.groups
    )


def equal_parts(run: Run, size: int, largest: int) -> tuple[int, ...]:
    """How many images may go through a network at once so that each gets the bits that it gets alone.

    Which algorithm a library takes depends on the shape of its input, so that one set of images shows it.

    Parameters
    ----------
    run
        Takes (n, size, size, 3) uint8 through the network.
    size
        Side of its input, pixels.
    largest
        The largest number to try.

    Returns
    -------
    tuple of int
        Descending; the last is 1.
    """
    counts = [largest // 4**power for power in range(largest.bit_length()) if largest // 4**power > 1]
    if not counts:
        return (1,)
    images = np.random.default_rng(0).integers(0, 256, (largest, size, size, 3), dtype=np.uint8)
    alone = {at: run(images[at : at + 1]) for at in {0, *(count - 1 for count in counts)}}

    def equal(count: int) -> bool:
        together = run(images[:count])
        return all(alone[at].tobytes() == together[at : at + 1].tobytes() for at in (0, count - 1))

    return (*filter(equal, counts), 1)


def split(count: int, parts: tuple[int, ...]) -> Iterator[slice]:
    """A batch of ``count`` images as parts, the largest first."""
    begin = 0
    for part in parts:
        while count - begin >= part:
            yield slice(begin, begin + part)
            begin += part
