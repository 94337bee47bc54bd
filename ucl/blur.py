"""Gaussian blur of views, each image by its own width: the last part of SimCLR's, and UIC's, strong views.

A product and a sum for each weight, so that an image's view does not depend on its batch.  A blur commutes with the normalisation of
channels, on either side of which it may stand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from ucl.keys import Key

SIGMA = (0.1, 2.0)
"""Of SimCLR and UIC, for 224 px."""


def kernel_size(side: int) -> int:
    """Pixels of the kernel: a tenth of the side, odd, at least 3; 23 for 224, as in SimCLR's released code."""
    return max(3, 2 * (int(0.1 * side) // 2) + 1)


def widths(key: Key, positions: NDArray[np.int64], view: int, p: float, sigma: tuple[float, float] = SIGMA) -> NDArray[np.float64]:
    """What is drawn: the standard deviation in pixels for each image, 0 for one that is not blurred.

    Args:
        key: what the draws belong to.  positions: (B,) int64 draw positions.  view: which view.
        p: probability of a blur; 0.5 in SimCLR and UIC.
        sigma: range of the standard deviation, uniform.

    Returns:
        (B,) float64.
    """
    drawn = key.uniform("blur-sigma", positions, view, *sigma)
    return np.where(key.uniform("blur", positions, view) < p, drawn, 0.0)


def blur(image: torch.Tensor, sigma: NDArray[np.float64], size: int) -> torch.Tensor:
    """Blurred images; mirrored at the edges without the edge pixel, as torchvision's.

    Args:
        image: (B, C, H, W) float32, higher and wider than half of ``size``.
        sigma: (B,) standard deviations; an image of 0 keeps its bits.
        size: odd number of pixels of the kernel.

    Returns:
        (B, C, H, W) float32.
    """
    import torch
    from torch.nn import functional

    at = np.flatnonzero(sigma > 0)
    if not len(at):
        return image
    reach, (height, width) = size // 2, image.shape[2:]
    weight = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma[at, None]) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    w = torch.from_numpy(weight.astype(np.float32)).to(image.device)[:, :, None, None, None]
    chosen = torch.from_numpy(at).to(image.device)
    padded = functional.pad(image[chosen], (reach,) * 4, mode="reflect")
    across = padded[..., :width] * w[:, 0]
    for t in range(1, size):
        across += padded[..., t:t + width] * w[:, t]
    down = across[:, :, :height] * w[:, 0]
    for t in range(1, size):
        down += across[:, :, t:t + height] * w[:, t]
    out = image.clone()
    out[chosen] = down
    return out
