"""ucl.strong against Pillow, level by level, and against SCAN's views made image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from ucl import strong, views
from ucl.keys import Key
from ucl.settings import ViewSettings

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
SCAN = ViewSettings(crop_scale=(1.0, 1.0), jitter_p=0.0, grey_p=0.0, strong_ops=4, cutout=16)


def pictures(n: int, side: int, seed: int = 0) -> np.ndarray:
    """(n, side, side, 3) uint8: noise, dim noise, few levels, one level, and blocks of colour."""
    rng = np.random.default_rng(seed)
    out = rng.integers(0, 256, (n, side, side, 3), np.uint8)
    part = n // 5
    out[:part] = (out[:part] * rng.uniform(0, 1, (part, 1, 1, 3))).astype(np.uint8)
    out[part:2 * part] = out[part:2 * part] // 60 * 60
    out[2 * part] = 77
    out[3 * part:] = np.kron(rng.integers(0, 256, (n - 3 * part, 4, 4, 3)), np.ones((1, side // 4 + 1, side // 4 + 1, 1)))[:, :side, :side]
    return out


def levels(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def pillow(name: str, image: Image.Image, magnitude: float) -> Image.Image:
    """As SCAN's released code calls it."""
    def affine(*parts: float) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, parts)

    match name:
        case "identity":
            return image
        case "autocontrast" | "equalize":
            return getattr(ImageOps, name)(image)  # type: ignore[no-any-return]
        case "solarize":
            return ImageOps.solarize(image, magnitude)  # type: ignore[arg-type]
        case "posterize":
            return ImageOps.posterize(image, int(magnitude))
        case "rotate":
            return image.rotate(magnitude)
        case "shear-x":
            return affine(1, magnitude, 0, 0, 1, 0)
        case "shear-y":
            return affine(1, 0, 0, magnitude, 1, 0)
        case "translate-x":
            return affine(1, 0, magnitude * image.size[0], 0, 1, 0)
        case "translate-y":
            return affine(1, 0, 0, 0, 1, magnitude * image.size[1])
    return getattr(ImageEnhance, name.capitalize())(image).enhance(magnitude)  # type: ignore[no-any-return]


@pytest.mark.parametrize("side", [16, 33, 96])
@pytest.mark.parametrize("name", strong.NAMES)
def test_each_operation_is_pillows_to_the_last_level(name: str, side: int) -> None:
    n = 40
    pixels, (low, high) = pictures(n, side), strong.RANGES[name]
    magnitude = np.random.default_rng(side).uniform(low, high, n)
    magnitude[-2:] = low, (low + high) / 2
    found = strong.operate(levels(pixels), np.full((1, n), strong.NAMES.index(name)), magnitude[None])
    for i in range(n):
        wanted = np.array(pillow(name, Image.fromarray(pixels[i]), float(magnitude[i])))
        assert np.array_equal(found[i].permute(1, 2, 0).numpy(), wanted), (i, magnitude[i])
    assert np.array_equal(levels(pixels).permute(0, 2, 3, 1).numpy(), pixels)              # the images given are left alone


@pytest.mark.parametrize(("name", "magnitude"), [("posterize", 7.9999999999), ("solarize", 100.0000000001), ("solarize", 255.9999999999),
                                                 ("color", 1.7), ("contrast", 1.7), ("brightness", 1.7), ("sharpness", 1.7)])
def test_magnitudes_between_whole_numbers_and_beyond_the_ranges(name: str, magnitude: float) -> None:
    pixels = pictures(10, 20)
    pixels[0, 0, :, 0] = np.arange(95, 115)
    found = strong.operate(levels(pixels), np.full((1, 10), strong.NAMES.index(name)), np.full((1, 10), magnitude))
    for i in range(10):
        assert np.array_equal(found[i].permute(1, 2, 0).numpy(), np.array(pillow(name, Image.fromarray(pixels[i]), magnitude)))


def test_oblong_images_turn_and_move_about_their_own_sides() -> None:
    pixels = pictures(8, 40)[:, :27]
    for name in ("rotate", "shear-x", "shear-y", "translate-x", "translate-y"):
        magnitude = np.linspace(*strong.RANGES[name], 8)
        found = strong.operate(levels(pixels), np.full((1, 8), strong.NAMES.index(name)), magnitude[None])
        for i in range(8):
            wanted = np.array(pillow(name, Image.fromarray(pixels[i]), float(magnitude[i])))
            assert np.array_equal(found[i].permute(1, 2, 0).numpy(), wanted)


def test_what_is_drawn() -> None:
    """Each operation as often as another, drawn anew every time, its magnitude over the whole of its range; keyed."""
    at = np.arange(14_000)
    which, magnitude = strong.draw(Key(1), at, 0, 4)
    for i in range(4):
        counts = np.bincount(which[i], minlength=14)
        assert len(counts) == 14
        assert (np.abs(counts - 1000) < 150).all()
    assert np.mean(which[0] == which[1]) == pytest.approx(1 / 14, abs=0.01)
    for k, (low, high) in enumerate(strong.RANGES.values()):
        drawn = magnitude[which == k]
        assert low <= drawn.min() <= drawn.max() <= high
        np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.75]), np.quantile([low, high], [0.25, 0.75]), atol=0.04 * (high - low))
    again, same = strong.draw(Key(1), at[50:60], 0, 4)
    assert np.array_equal(again, which[:, 50:60])
    assert np.array_equal(same, magnitude[:, 50:60])
    assert np.array_equal(strong.draw(Key(1), at, 0, 2)[0], which[:2])                     # more operations change no earlier ones
    for other in (strong.draw(Key(2), at, 0, 4), strong.draw(Key(1), at, 1, 4), strong.draw(Key(1, epoch=1), at, 0, 4)):
        assert np.mean(other[0] == which) < 0.1


def test_holes() -> None:
    at, side = np.arange(16_000), 32
    left, top, right, bottom = strong.holes(Key(3), at, 0, 16, side).T
    assert min(left.min(), top.min()) == 0
    assert max(right.max(), bottom.max()) == side
    inner = (left > 0) & (top > 0) & (right < side) & (bottom < side)
    assert np.array_equal((right - left)[inner], (bottom - top)[inner])
    middle = ((left + right) // 2 > 8) & ((left + right) // 2 < 23) & ((top + bottom) // 2 > 8) & ((top + bottom) // 2 < 23)   # none is cut off
    lengths = np.bincount((right - left)[middle] // 2, minlength=9)
    assert ((right - left)[middle] % 2 == 0).all()
    assert len(lengths) == 9
    assert lengths[0] / lengths[1:8].mean() == pytest.approx(0.5, abs=0.12)                # 1 pixel is none; 16 is alone
    assert lengths[8] / lengths[1:8].mean() == pytest.approx(0.5, abs=0.12)
    assert not np.array_equal(strong.holes(Key(3), at, 1, 16, side)[:, 0], left)
    image = torch.ones(3, 2, 5, 7)
    cut = strong.cut(image, np.array([[1, 2, 4, 5], [0, 0, 0, 0], [6, 0, 7, 1]]))
    assert (cut[0, :, 2:5, 1:4] == 0).all()
    assert cut.sum((1, 2, 3)).tolist() == [70 - 18, 70, 68]


def test_views_are_scans_made_one_by_one() -> None:
    """Mirrored by chance, four operations in their order, normalised, cut."""
    n, key, at = 60, Key(5), np.arange(60) * 3
    pixels = pictures(n, 32)
    found = views.train_views(torch.from_numpy(pixels), key, at, 1, views.recipe(SCAN, MEAN, STD), 32)
    which, magnitude = strong.draw(key, at, 1, 4)
    flipped, hole = key.uniform("flip", at, 1) < 0.5, strong.holes(key, at, 1, 16, 32)
    for i in range(n):
        image = Image.fromarray(pixels[i])
        if flipped[i]:
            image = ImageOps.mirror(image)
        for k, m in zip(which[:, i], magnitude[:, i], strict=True):
            image = pillow(strong.NAMES[k], image, float(m))
        wanted = (np.array(image).astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        left, top, right, bottom = hole[i]
        wanted[top:bottom, left:right] = 0
        np.testing.assert_allclose(found[i].permute(1, 2, 0).numpy(), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("more", [{}, {"crop_scale": (0.2, 1.0), "rotate": 10.0, "jitter_p": 0.8, "grey_p": 0.2, "blur_p": 0.5}])
def test_a_view_does_not_depend_on_its_batch(more: dict[str, object]) -> None:
    pixels, at = torch.from_numpy(pictures(300, 32)), np.arange(300) * 7
    recipe = views.recipe(SCAN.override(more), MEAN, STD)
    whole = views.train_views(pixels, Key(1), at, 1, recipe, 40)
    for rows in ([0], [299], [5, 3, 290], list(range(40, 181))):
        assert torch.equal(views.train_views(pixels[rows], Key(1), at[rows], 1, recipe, 40), whole[rows])


def test_nothing_drawn_costs_and_changes_nothing() -> None:
    image = torch.rand(2, 3, 8, 8)
    some = levels(pictures(5, 8))
    assert strong.operate(some, *strong.draw(Key(), np.arange(5), 0, 0)) is some
    assert torch.equal(strong.distort(levels(pictures(5, 8)) / 255.0, np.zeros((4, 5), np.int64), np.zeros((4, 5))), some / 255.0)
    assert torch.equal(strong.cut(image, np.zeros((2, 4), np.int64)), image)
