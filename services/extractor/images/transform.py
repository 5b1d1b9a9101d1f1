"""How an image becomes a network's input: plain data, no numerical library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

CropMode = Literal["center", "squash"]
Decode = Literal["full", "scaled"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Transform:
    """How an image becomes the network's input; pixels are scaled to [0, 1] before mean and std apply.

    Attributes
    ----------
    size
        Side of the square input, pixels.
    crop_fraction
        Side of the centre crop divided by the side after resizing.
    interpolation
        ``bilinear``, ``bicubic``, ``lanczos`` or ``nearest``.
    mean, std
        Per channel R, G, B.
    crop_mode
        ``center`` resizes the shorter side and keeps the aspect ratio; ``squash`` resizes both sides to the same
        length.
    decode
        ``full`` decodes all pixels. ``scaled`` decodes a JPEG file at half, a quarter or an eighth of its size where
        that still has twice the sides of the resized image: other pixels, in less time.
    """

    size: int = 224
    crop_fraction: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_mode: CropMode = "center"
    decode: Decode = "full"

    def record(self) -> dict[str, Any]:
        """What identifies it, as plain data. ``full`` is left out: plans from before there was a choice agree."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("decode", "full")}
