"""Strong views: a few operations drawn for each image, and a hole; for whole batches on the device.

As in SCAN (Van Gansbeke et al., ECCV 2020; released code), whose list is RandAugment's (Cubuk et al., 2020) with weak magnitudes: each of
n operations is drawn of fourteen with replacement, and its magnitude uniformly from its range; a hole follows the normalisation.
All is computed on 256 levels, and each operation is Pillow's own, to the last level.  Views are those of an image's own draws: sums are of
whole numbers, so that the batch cannot change them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ucl.keys import Key

RANGES: dict[str, tuple[float, float]] = {
    "identity": (0.0, 0.0), "autocontrast": (0.0, 0.0), "equalize": (0.0, 0.0), "solarize": (0.0, 256.0), "posterize": (4.0, 8.0),
    "color": (0.05, 0.95), "contrast": (0.05, 0.95), "brightness": (0.05, 0.95), "sharpness": (0.05, 0.95),
    "rotate": (-30.0, 30.0), "shear-x": (-0.1, 0.1), "shear-y": (-0.1, 0.1), "translate-x": (-0.1, 0.1), "translate-y": (-0.1, 0.1),
}
"""The operations, by Pillow's names, and the ranges of their magnitudes in SCAN.

solarize: levels from it on are inverted; posterize: bits kept, rounded down; color to sharpness: factors of ``PIL.ImageEnhance``; rotate:
degrees, anticlockwise; shear: pixels a row, or a column; translate: shares of the side.  What comes into view is black.
"""

NAMES = tuple(RANGES)
_MOVES = NAMES.index("rotate")                                               # from here on: one look-up by an affine map


def draw(key: Key, positions: NDArray[np.int64], view: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What is done to each image.

    Args:
        key: what the draws belong to.  positions: (B,) int64 draw positions.  view: which view.
        count: operations for each image.

    Returns:
        (count, B) int64 indices into `NAMES`, first to last; (count, B) float64 magnitudes.
    """
    low, high = np.array(list(RANGES.values())).T
    which = np.empty((count, len(positions)), np.int64)
    magnitude = np.empty((count, len(positions)))
    for i in range(count):
        which[i] = key.uniform(f"strong-operation-{i}", positions, view, 0, len(NAMES))
        at = which[i]
        magnitude[i] = low[at] + (high - low)[at] * key.uniform(f"strong-magnitude-{i}", positions, view)
    return which, magnitude


def distort(image: torch.Tensor, which: NDArray[np.int64], magnitude: NDArray[np.float64]) -> torch.Tensor:
    """`operate` for (B, 3, H, W) float32 in [0, 1], rounded to 256 levels."""
    import torch

    levels = (image * 255.0).round_().clamp_(0.0, 255.0).to(torch.uint8)
    return operate(levels, which, magnitude).to(torch.float32).div_(255.0)


def operate(levels: torch.Tensor, which: NDArray[np.int64], magnitude: NDArray[np.float64]) -> torch.Tensor:
    """Each image after its operations.

    In every round the batch lies sorted by operation, so that each operation sees one slice.

    Args:
        levels: (B, 3, H, W) uint8.
        which: (R, B) indices into `NAMES`.
        magnitude: (R, B) float64, as in `RANGES`.

    Returns:
        (B, 3, H, W) uint8.
    """
    import torch

    if not which.size:
        return levels
    device, (height, width) = levels.device, levels.shape[2:]
    group = np.minimum(which, _MOVES)
    order = np.argsort(group, axis=1, kind="stable")
    bounds = [np.searchsorted(np.sort(row), np.arange(_MOVES + 2)).tolist() for row in group]
    moves, place = np.empty((len(which) + 1, which.shape[1]), np.int64), np.arange(which.shape[1])
    for i, wanted in enumerate(order):
        moves[i] = place[wanted]
        place[wanted] = np.arange(len(wanted))
    moves[-1] = place
    at = torch.from_numpy(moves).to(device)
    maps = torch.from_numpy(_maps(np.take_along_axis(which, order, 1), np.take_along_axis(magnitude, order, 1), height, width)).to(device)
    number = torch.from_numpy(np.take_along_axis(_numbers(which, magnitude), order, 1)).to(device)[:, :, None, None, None]
    for i, bound in enumerate(bounds):
        levels = levels[at[i]]
        for g, apply in enumerate(_operations()):
            part = slice(bound[g], bound[g + 1])
            if apply is not None and part.stop > part.start:
                levels[part] = apply(levels[part], number[i, part])
        part = slice(bound[_MOVES], bound[_MOVES + 1])
        if part.stop > part.start:
            levels[part] = _moved(levels[part], maps[i, part])
    return levels[at[-1]]


def holes(key: Key, positions: NDArray[np.int64], view: int, longest: int, side: int) -> NDArray[np.int64]:
    """Cutout's hole (DeVries and Taylor, 2017) for each image, as SCAN draws it.

    A side of 1 to ``longest`` pixels, rounded down to an even number, around any pixel, cut off at the edges of the image.

    Returns:
        (B, 4) int64: left, top, right, bottom; right and bottom are outside of the hole.
    """
    half = (1 + key.uniform("cutout-side", positions, view, 0, longest).astype(np.int64)) // 2
    x, y = (key.uniform(f"cutout-{axis}", positions, view, 0, side).astype(np.int64) for axis in "xy")
    return np.stack([x - half, y - half, x + half, y + half], 1).clip(0, side)


def cut(image: torch.Tensor, hole: NDArray[np.int64]) -> torch.Tensor:
    """(B, C, H, W) float32 with 0, the channels' mean after normalisation, inside of the holes (B, 4)."""
    import torch

    left, top, right, bottom = torch.from_numpy(hole).to(image.device).T[:, :, None, None, None]
    across = torch.arange(image.shape[3], device=image.device)
    down = torch.arange(image.shape[2], device=image.device)[:, None]
    return image.masked_fill((across >= left) & (across < right) & (down >= top) & (down < bottom), 0.0)


# -- operations: (b, 3, H, W) uint8 and the magnitudes (b, 1, 1, 1) float32 ----------------------------------------------------------


def _operations() -> tuple[Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None, ...]:
    """In the order of `NAMES`, up to those that move pixels."""
    return (None, _autocontrast, _equalize, _solarize, _posterize, _color, _contrast, _brightness, _sharpness)


def _numbers(which: NDArray[np.int64], magnitude: NDArray[np.float64]) -> NDArray[np.float32]:
    """Magnitudes in float32, those that stand for whole numbers made whole before."""
    found = np.where(which == NAMES.index("solarize"), np.ceil(magnitude), magnitude)
    return np.where(which == NAMES.index("posterize"), np.floor(found), found).astype(np.float32)


def _autocontrast(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Each channel stretched to 0 to 255; float64 in Pillow's order of operations, which decides ties."""
    import torch

    least, most = levels.amin((2, 3), keepdim=True).double(), levels.amax((2, 3), keepdim=True).double()
    span = torch.where(most > least, most - least, 1.0)
    scale = torch.full_like(span, 255.0).div_(span)                          # 255.0 / span would be rounded twice
    stretched = (levels * scale).add_(-least * scale).clamp_(0.0, 255.0).to(torch.uint8)
    return torch.where(most > least, stretched, levels)


def _equalize(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """The histogram of each channel made even."""
    import torch

    (count, channels), flat = levels.shape[:2], levels.flatten(2).long()
    row = torch.arange(count * channels, device=levels.device).view(count, channels, 1) * 256
    found = torch.bincount((flat + row).flatten(), minlength=count * channels * 256).view(count, channels, 256)
    step = (flat.shape[2] - found.gather(2, flat.amax(2, keepdim=True))) // 255
    table = (found.cumsum(2) - found + step // 2) // step.clamp(min=1)
    table = torch.where(step > 0, table.clamp_(max=255), torch.arange(256, device=levels.device))
    return table.gather(2, flat).to(torch.uint8).view_as(levels)


def _solarize(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.where(levels < number, levels, 255 - levels)


def _posterize(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    import torch

    return levels & (256 - 2 ** (8 - number.to(torch.int32))).to(torch.uint8)


def _color(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    return _blend(_luma(levels), levels, number)


def _contrast(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    pixels = levels.shape[2] * levels.shape[3]
    return _blend((_luma(levels).sum((1, 2, 3), keepdim=True) * 2 + pixels) // (2 * pixels), levels, number)


def _brightness(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    import torch

    return (levels * number).clamp_(0.0, 255.0).to(torch.uint8)


def _sharpness(levels: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
    """Blend with Pillow's SMOOTH: thirteenths, 5 in the middle and 1 around it; pixels at the edge stay."""
    import torch

    whole, (height, width) = levels.to(torch.int32), levels.shape[2:]
    total = whole[:, :, 1:-1, 1:-1] * 4
    for y in range(3):
        for x in range(3):
            total += whole[:, :, y:height - 2 + y, x:width - 2 + x]
    whole[:, :, 1:-1, 1:-1] = (total * 2 + 13) // 26
    return _blend(whole, levels, number)


def _luma(levels: torch.Tensor) -> torch.Tensor:
    """Pillow's mode L: (b, 1, H, W) int32."""
    import torch

    whole = levels.to(torch.int32)
    weighted = whole[:, 0:1] * 19595 + whole[:, 1:2] * 38470 + whole[:, 2:3] * 7471
    return (weighted + 0x8000) >> 16


def _blend(plain: torch.Tensor, levels: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """From ``plain`` at 0 to ``levels`` at 1, cut down to a whole level, as ``PIL.Image.blend``."""
    import torch

    return ((levels - plain) * factor).add_(plain).clamp_(0.0, 255.0).to(torch.uint8)


# -- geometry ------------------------------------------------------------------------------------------------------------------------


def _maps(which: NDArray[np.int64], magnitude: NDArray[np.float64], height: int, width: int) -> NDArray[np.int32]:
    """From pixels of the view to pixels of the image, in 65,536ths: (..., 6), as Pillow rounds them; (xx, xy, x0, yx, yy, y0)."""
    angle = np.where(which == NAMES.index("rotate"), -np.deg2rad(magnitude), 0.0)
    cos, sin = np.round(np.cos(angle), 15), np.round(np.sin(angle), 15)
    shear_x, shear_y, shift_x, shift_y = (
        np.where(which == NAMES.index(name), magnitude, 0.0) for name in ("shear-x", "shear-y", "translate-x", "translate-y"))
    xx, xy, yx, yy = cos, sin + shear_x, shear_y - sin, cos
    turned = which == NAMES.index("rotate")
    x0 = np.where(turned, width / 2 - cos * (width / 2) - sin * (height / 2), np.floor(shift_x * width + 0.5))
    y0 = np.where(turned, height / 2 + sin * (width / 2) - cos * (height / 2), np.floor(shift_y * height + 0.5))
    parts = [xx, xy, x0 + xx * 0.5 + xy * 0.5, yx, yy, y0 + yx * 0.5 + yy * 0.5]
    return np.floor(np.stack(parts, -1) * 65536.0 + 0.5).astype(np.int32)


def _moved(levels: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """The nearest pixel under each map (b, 6) int32; black outside."""
    import torch

    (count, channels, height, width), a = levels.shape, maps[:, :, None, None]
    across = torch.arange(width, dtype=torch.int32, device=levels.device)
    down = torch.arange(height, dtype=torch.int32, device=levels.device)[:, None]
    x, y = ((a[:, i] * across + a[:, i + 1] * down + a[:, i + 2]) >> 16 for i in (0, 3))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    at = torch.where(inside, y * width + x, 0).long().view(count, 1, -1).expand(-1, channels, -1)
    return levels.flatten(2).gather(2, at).view_as(levels).mul_(inside[:, None])
