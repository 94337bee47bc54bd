"""Views: what the network sees of an image, made for whole batches on the device.

Geometry is **one** affine map per image (random-resized crop, flip, rotation, translation, zoom,
shear composed) and one bilinear look-up, so an image is resampled once.  The operations of strong
views come next (`ucl.strong`).  Colour follows in a fixed
order: brightness, contrast, saturation, hue (SimCLR's order; torchvision's shuffles it per call,
    which would tie an image's view to its batch), then greyscale, blur (`ucl.blur`),
normalisation, and the hole of a strong view.  Every parameter is a keyed draw of (key, draw
position, view): the same draw gives the same view whatever the batch, the worker or the number of
processes.  On a CPU that holds bit for bit, which is why sums over pixels are taken in whole numbers below and no fused
multiply-add is used.

Outside the image the nearest edge pixel is seen ("border").  It continues a product photo's
backdrop and never shows an object twice, as reflection does.

The defaults of `ucl.settings.ViewSettings` are the views of SCAN's SimCLR at 32 px.  SimCLR (Chen et
al., 2020) has crop_scale 0.08 to 1 beside them; at 224 px also brightness, contrast and saturation
0.8, hue 0.2, blur_p 0.5.  SCAN's strong views are crop_scale 1 to 1 (no crop), jitter_p 0, grey_p 0,
strong_ops 4 and cutout 16 (32 at 96 px).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ucl import blur, strong

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ucl.keys import Key
    from ucl.settings import ViewSettings

CROP_TRIES = 10
"""As many as torchvision's RandomResizedCrop makes before it falls back to a centre crop."""

_CHUNK_FLOATS = 1 << 19  # floats in flight on a CPU (2 MiB): the work stays in the cache
_GREY = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class ViewRecipe:
    """What is drawn for a training view; as it stands, nothing is.

    Attributes:
        crop_scale: range of the crop's share of the area; None: no crop.
        crop_ratio: range of the crop's width / height.
        flip: probability of a horizontal flip.
        rotate: largest angle in degrees, either way.
        translate: largest shift as a share of the side, either way, on each axis.
        zoom: range of the magnification.
        shear: largest horizontal shear in degrees, either way.
        jitter: strengths of brightness, contrast, saturation (factor 1 - s to 1 + s) and hue (shift -s to s, in turns).
        jitter_p: probability that an image's colours are jittered at all.
        grey: probability of greyscale.
        blur_p: probability of a Gaussian blur.
        blur_sigma: range of its standard deviation, in pixels.
        strong_ops: how many of `ucl.strong`'s operations are drawn.
        cutout: longest side of the hole, in pixels; 0: no hole.
        mean: mean of the channels, for images in [0, 1].
        std: standard deviation of the channels.
    """

    crop_scale: tuple[float, float] | None = None
    crop_ratio: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    rotate: float = 0.0
    translate: float = 0.0
    zoom: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    jitter_p: float = 0.0
    grey: float = 0.0
    blur_p: float = 0.0
    blur_sigma: tuple[float, float] = blur.SIGMA
    strong_ops: int = 0
    cutout: int = 0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


def recipe(settings: ViewSettings, mean: tuple[float, ...], std: tuple[float, ...]) -> ViewRecipe:
    """The recipe that a verb's settings ask for, with the model's normalisation."""
    s = settings
    crop = None if s.crop_scale == (1.0, 1.0) and s.crop_ratio[0] <= 1.0 <= s.crop_ratio[1] else s.crop_scale
    return ViewRecipe(
        crop, s.crop_ratio, s.flip, s.rotate, s.translate, s.zoom, s.shear,
        (s.brightness, s.contrast, s.saturation, s.hue), s.jitter_p, s.grey_p,
        s.blur_p, s.blur_sigma, s.strong_ops, s.cutout, mean, std,
    )  # fmt: skip


def uncropped(made: ViewRecipe) -> ViewRecipe:
    """The same recipe for pixels that were cropped already."""
    return replace(made, crop_scale=None)


def train_views(
    pixels: torch.Tensor,
    key: Key,
    positions: NDArray[np.int64],
    view: int,
    settings: ViewRecipe,
    size: int,
) -> torch.Tensor:
    """One random view of each image.

    Args:
        pixels: (B, H, W, 3) uint8, on the device.
        key: what the draws belong to.
        positions: (B,) int64, the draw position of each image in its epoch.
        view: which view of the image.
        settings: what is drawn.
        size: side of the views.

    Returns:
        (B, 3, size, size) float32 on the same device, normalised, contiguous.
    """
    import torch

    s, positions = settings, np.asarray(positions)
    count, height, width = pixels.shape[0], pixels.shape[1], pixels.shape[2]
    affine = _affine(key, positions, view, settings, height, width)
    colour = _colour(key, positions, view, settings)
    parameters = torch.from_numpy(np.concatenate([affine, colour], 1).astype(np.float32)).to(
        pixels.device
    )
    out = torch.empty((count, 3, size, size), dtype=torch.float32, device=pixels.device)
    which, magnitude = strong.draw(key, positions, view, s.strong_ops)
    sigma = blur.widths(key, positions, view, s.blur_p, s.blur_sigma) if s.blur_p else None
    hole = strong.holes(key, positions, view, s.cutout, size) if s.cutout else None
    chunk = (
        max(1, _CHUNK_FLOATS // (3 * max(size * size, height * width)))
        if pixels.device.type == "cpu"
        else count
    )
    for start in range(0, count, max(1, chunk)):
        part = slice(start, start + chunk)
        image = _unit(pixels[part])
        if _moves(settings) or height != size or width != size:
            image = _look_up(image, parameters[part, :6], size)
        if s.strong_ops:
            image = strong.distort(image, which[:, part], magnitude[:, part])
        image = _recolour(image, parameters[part, 6:], settings)
        if sigma is not None:
            image = blur.blur(image, sigma[part], blur.kernel_size(size))
        image = _normalise(image, settings)
        out[part] = image if hole is None else strong.cut(image, hole[part])
    return out


def eval_views(pixels: torch.Tensor, settings: ViewRecipe, size: int) -> torch.Tensor:
    """The fixed view: short side resized to ``size`` (antialiased bilinear), centre crop,
    normalised.

    Args:
        pixels: (B, H, W, 3) uint8, on the device.
        settings: for the mean and standard deviation.
        size: side of the views.

    Returns:
        (B, 3, size, size) float32; pixels of size x size are only normalised.
    """
    from torch.nn import functional

    image = _unit(pixels)
    height, width = image.shape[2:]
    if (height, width) != (size, size):
        short = min(height, width)
        shape = (max(size, round(height * size / short)), max(size, round(width * size / short)))
        image = functional.interpolate(
            image, shape, mode="bilinear", align_corners=False, antialias=True
        )
        top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
        image = image[:, :, top : top + size, left : left + size]
    return _normalise(image, settings).contiguous()


def crop_boxes(
    key: Key,
    positions: NDArray[np.int64],
    view: int,
    heights: NDArray[np.integer],
    widths: NDArray[np.integer],
    settings: ViewRecipe,
) -> NDArray[np.float64]:
    """The crops that `train_views` would take, for images that are not packed.

    Give them to ``ImageSet.crops``, and its pixels to `train_views` with ``replace(settings,
    crop_scale=None)``.

    Args:
        key: what the draws belong to.
        positions: (B,) int64 draw positions.
        view: which view.
        heights: (B,) heights of the images.
        widths: (B,) widths.
        settings: for ``crop_scale`` (None: the centre square) and ``crop_ratio``.

    Returns:
        (B, 4) float64: left, top, right, bottom as shares of width and height.
    """
    high, broad = np.asarray(heights, np.float64), np.asarray(widths, np.float64)
    if settings.crop_scale is None:
        side = np.minimum(high, broad)
        left, top, wide, tall = (broad - side) / 2, (high - side) / 2, side, side
    else:
        left, top, wide, tall = _crop(key, np.asarray(positions), view, high, broad, settings)
    return np.stack([left / broad, top / high, (left + wide) / broad, (top + tall) / high], 1)


# -- draws -----------------------------------------------------------------------------------------


def _crop(
    key: Key,
    positions: NDArray[np.int64],
    view: int,
    heights: NDArray[np.float64],
    widths: NDArray[np.float64],
    settings: ViewRecipe,
) -> tuple[NDArray[np.float64], ...]:
    """torchvision's RandomResizedCrop.get_params on arrays: left, top, width, height (B,)."""
    assert settings.crop_scale is not None
    low, high = settings.crop_ratio
    ratio = widths / heights  # the fallback: the largest centre crop with an allowed ratio
    wide = np.where(ratio > high, np.rint(heights * high), widths)
    tall = np.where(ratio < low, np.rint(widths / low), heights)
    left, top = np.floor((widths - wide) / 2), np.floor((heights - tall) / 2)
    todo = np.arange(len(positions))
    for attempt in range(CROP_TRIES):
        at = positions[todo]
        area = (
            key.uniform(f"crop-area-{attempt}", at, view, *settings.crop_scale)
            * heights[todo]
            * widths[todo]
        )
        aspect = np.exp(
            key.uniform(f"crop-ratio-{attempt}", at, view, math.log(low), math.log(high))
        )
        w, h = np.rint(np.sqrt(area * aspect)), np.rint(np.sqrt(area / aspect))
        fits = (w > 0) & (w <= widths[todo]) & (h > 0) & (h <= heights[todo])
        hit = todo[fits]
        wide[hit], tall[hit] = w[fits], h[fits]
        left[hit] = np.floor(key.uniform("crop-x", at[fits], view) * (widths[hit] - wide[hit] + 1))
        top[hit] = np.floor(key.uniform("crop-y", at[fits], view) * (heights[hit] - tall[hit] + 1))
        todo = todo[~fits]
        if not len(todo):
            break
    return left, top, wide, tall


def _moves(settings: ViewRecipe) -> bool:
    return (
        settings.crop_scale is not None
        or settings.flip > 0
        or settings.rotate > 0
        or settings.translate > 0
        or settings.shear > 0
        or settings.zoom != (1.0, 1.0)
    )


def _affine(
    key: Key,
    positions: NDArray[np.int64],
    view: int,
    settings: ViewRecipe,
    height: int,
    width: int,
) -> NDArray[np.float64]:
    """The map from view to image, both in [-1, 1]: (B, 6) as (xx, xy, x0, yx, yy, y0).

    A point of the view is shifted back, turned, sheared and shrunk back, mirrored, and placed
    inside the crop.
    """
    count = len(positions)

    def symmetric(name: str, most: float) -> NDArray[np.float64]:
        return key.uniform(name, positions, view, -most, most) if most else np.zeros(count)

    angle = np.deg2rad(symmetric("rotate", settings.rotate))
    slant = np.tan(np.deg2rad(symmetric("shear", settings.shear)))
    shift_x, shift_y = (
        2 * symmetric("translate-x", settings.translate),
        2 * symmetric("translate-y", settings.translate),
    )
    zoom = key.uniform("zoom", positions, view, *settings.zoom)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    # torchvision's inverse matrix: unshear after turning back, positive angles are clockwise
    xx, xy, yx, yy = cos - slant * sin, sin + slant * cos, -sin, cos
    mirror = np.where(key.uniform("flip", positions, view) < settings.flip, -1.0, 1.0)
    xx, xy = xx * mirror, xy * mirror
    x0, y0 = -(xx * shift_x + xy * shift_y), -(yx * shift_x + yy * shift_y)
    left, top, wide, tall = _window(key, positions, view, settings, height, width)
    half_x, half_y = wide / width, tall / height
    centre_x, centre_y = (2 * left + wide) / width - 1, (2 * top + tall) / height - 1
    return np.stack(
        [
            xx * half_x,
            xy * half_x,
            x0 * half_x + centre_x,
            yx * half_y,
            yy * half_y,
            y0 * half_y + centre_y,
        ],
        1,
    )


def _window(
    key: Key,
    positions: NDArray[np.int64],
    view: int,
    settings: ViewRecipe,
    height: int,
    width: int,
) -> tuple[NDArray[np.float64], ...]:
    """The crop of each image, or the centre square: left, top, width, height, each (B,)."""
    high, broad = np.full(len(positions), float(height)), np.full(len(positions), float(width))
    if settings.crop_scale is None:
        side = np.minimum(high, broad)
        return (broad - side) / 2, (high - side) / 2, side, side
    return _crop(key, positions, view, high, broad, settings)


def _colour(
    key: Key, positions: NDArray[np.int64], view: int, settings: ViewRecipe
) -> NDArray[np.float64]:
    """(B, 5): factors of brightness, contrast, saturation; shift of hue; 1 to turn grey."""
    out = np.empty((len(positions), 5))
    touched = key.uniform("jitter", positions, view) < settings.jitter_p
    for column, name in enumerate(("brightness", "contrast", "saturation", "hue")):
        most = settings.jitter[column]
        neutral, least = (0.0, -most) if name == "hue" else (1.0, max(0.0, 1.0 - most))
        drawn = key.uniform(f"jitter-{name}", positions, view, least, neutral + most)
        out[:, column] = np.where(touched, drawn, neutral)
    out[:, 4] = key.uniform("grey", positions, view) < settings.grey
    return out


# -- pixels ----------------------------------------------------------------------------------------


def _unit(pixels: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 to contiguous (B, 3, H, W) float32 in [0, 1]."""
    import torch

    return (
        pixels.permute(0, 3, 1, 2)
        .to(torch.float32, memory_format=torch.contiguous_format)
        .div_(255.0)
    )


def _look_up(image: torch.Tensor, affine: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear look-up; plain products and sums, as a matrix product rounds by batch size."""
    import torch
    from torch.nn import functional

    steps = (torch.arange(size, dtype=torch.float32, device=image.device) * 2 + 1) / size - 1
    a = affine[:, :, None, None]
    across, down = steps[None, None, :], steps[None, :, None]
    grid = torch.empty((len(image), size, size, 2), dtype=torch.float32, device=image.device)
    grid[..., 0] = a[:, 0] * across + a[:, 1] * down + a[:, 2]
    grid[..., 1] = a[:, 3] * across + a[:, 4] * down + a[:, 5]
    return functional.grid_sample(
        image, grid, mode="bilinear", padding_mode="border", align_corners=False
    )


def _recolour(image: torch.Tensor, colour: torch.Tensor, settings: ViewRecipe) -> torch.Tensor:
    """Brightness, contrast, saturation, hue, greyscale; a factor of each per image (B, 5)."""
    factor = colour[:, :, None, None, None]
    if settings.jitter[0]:
        image = adjust_brightness(image, factor[:, 0])
    if settings.jitter[1]:
        image = adjust_contrast(image, factor[:, 1])
    if settings.jitter[2]:
        image = adjust_saturation(image, factor[:, 2])
    if settings.jitter[3]:
        image = adjust_hue(image, factor[:, 3])
    if settings.grey:
        import torch

        image = torch.where(factor[:, 4] > 0, _grey(image), image)
    return image


def _grey(image: torch.Tensor) -> torch.Tensor:
    """Luma (ITU-R 601-2, torchvision's weights), (B, 1, H, W)."""
    red, green, blue = image[:, 0:1], image[:, 1:2], image[:, 2:3]
    return (red * _GREY[0]).add_(green * _GREY[1]).add_(blue * _GREY[2])


def adjust_brightness(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] times (B, 1, 1, 1), clipped."""
    return (image * factor).clamp_(0.0, 1.0)


def adjust_contrast(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with the mean luma of each image, (B, 3, H, W) and (B, 1, 1, 1)."""
    import torch

    # rounded to multiples of 2^-24 the sum is exact in float64, hence the same in any order
    whole = (_grey(image) * 2.0**24).round_().sum((1, 2, 3), keepdim=True, dtype=torch.float64)
    mean = (whole / (2.0**24 * image.shape[2] * image.shape[3])).to(torch.float32)
    return (image * factor).add_(mean * (1.0 - factor)).clamp_(0.0, 1.0)


def adjust_saturation(image: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Blend with each pixel's luma, (B, 3, H, W) and (B, 1, 1, 1)."""
    grey = _grey(image).mul_(1.0 - factor)
    return (image * factor).add_(grey).clamp_(0.0, 1.0)


def adjust_hue(image: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turns the hue by a share of a turn, (B, 3, H, W) and (B, 1, 1, 1); 0 changes nothing."""
    import torch

    red, green, blue = image[:, 0:1], image[:, 1:2], image[:, 2:3]
    value, least = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    chroma = value - least
    safe = torch.where(chroma > 0, chroma, 1.0)
    sixth = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    turned = sixth + shift * 6.0
    out = torch.empty_like(image)
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        k = torch.remainder(turned + offset, 6.0)
        weight = torch.minimum(k, 4.0 - k).clamp_(0.0, 1.0)
        torch.sub(value, weight.mul_(chroma), out=out[:, channel : channel + 1])
    return torch.where(shift == 0, image, out)


def _normalise(image: torch.Tensor, settings: ViewRecipe) -> torch.Tensor:
    import torch

    mean = torch.tensor(settings.mean, dtype=torch.float32, device=image.device)[:, None, None]
    std = torch.tensor(settings.std, dtype=torch.float32, device=image.device)[:, None, None]
    return (image - mean).div_(std)
