"""ucl.views: the same draw is the same view, and every operation is torchvision's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as reference

from ucl import views
from ucl.keys import Key
from ucl.settings import ViewSettings
from ucl.views import ViewRecipe

PLAIN = ViewRecipe(
    crop_scale=None, flip=0.0, jitter_p=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)
EVERYTHING = ViewRecipe(
    crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=0.5, jitter_p=0.8,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616),
    rotate=15, translate=0.1, zoom=(0.8, 1.2), shear=10, jitter=(0.4, 0.4, 0.4, 0.1), grey=0.2
)


def pictures(count: int, height: int = 32, width: int = 32, seed: int = 0) -> torch.Tensor:
    values = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    return torch.from_numpy(values)


def smooth(size: int = 32) -> torch.Tensor:
    rows, columns = np.mgrid[0:size, 0:size] * (255 / (size - 1))
    return torch.from_numpy(np.stack([rows, columns, (rows + columns) / 2], 2).astype(np.uint8))[
        None
    ]


def unit(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("size", [32, 24, 37])
def test_a_view_does_not_depend_on_its_batch(size: int) -> None:
    pixels, positions = pictures(300), np.arange(300) * 7
    whole = views.train_views(pixels, Key(1), positions, 1, EVERYTHING, size)
    assert whole.shape == (300, 3, size, size)
    assert whole.dtype == torch.float32
    for rows in ([0], [299], [5, 3, 290], list(range(40, 181))):
        part = views.train_views(pixels[rows], Key(1), positions[rows], 1, EVERYTHING, size)
        assert torch.equal(part, whole[rows])


def test_threads_do_not_change_a_view() -> None:
    pixels, positions = pictures(64), np.arange(64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = views.train_views(pixels, Key(), positions, 0, EVERYTHING, 32)
        torch.set_num_threads(2)
        assert torch.equal(one, views.train_views(pixels, Key(), positions, 0, EVERYTHING, 32))
    finally:
        torch.set_num_threads(before)


def test_every_part_of_the_key_changes_the_view() -> None:
    pixels = smooth()

    def draw(key: Key, position: int, view: int) -> torch.Tensor:
        return views.train_views(pixels, key, np.array([position]), view, EVERYTHING, 32)

    base = draw(Key(), 0, 0)
    assert torch.equal(base, draw(Key(), 0, 0))
    others = [
        draw(Key(seed=1), 0, 0), draw(Key(epoch=1), 0, 0), draw(Key(stage="x"), 0, 0),
        draw(Key(), 1, 0), draw(Key(), 0, 1),
    ]  # fmt: skip
    assert not any(torch.equal(base, other) for other in others)


def test_nothing_drawn_is_the_image() -> None:
    pixels = pictures(5)
    got = views.train_views(pixels, Key(), np.arange(5), 0, PLAIN, 32)
    assert torch.equal(got, unit(pixels))
    assert torch.equal(got, views.eval_views(pixels, PLAIN, 32))
    zero = replace(PLAIN, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.0)
    assert torch.equal(got, views.train_views(pixels, Key(), np.arange(5), 0, zero, 32))


def test_flips_are_exact_and_half() -> None:
    pixels = pictures(400, 16, 16)
    got = views.train_views(pixels, Key(), np.arange(400), 0, replace(PLAIN, flip=0.5), 16)
    image = unit(pixels)
    flipped = (got - image.flip(3)).abs().amax((1, 2, 3)) < 1e-5
    kept = (got - image).abs().amax((1, 2, 3)) < 1e-5
    assert (flipped ^ kept).all()
    assert 160 < int(flipped.sum()) < 240


def test_normalisation() -> None:
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    got = views.eval_views(pictures(3), ViewRecipe(mean=mean, std=std), 32)
    want = reference.normalize(unit(pictures(3)), list(mean), list(std))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 16), (40, 40, 32), (20, 30, 16)])
def test_eval_resizes_and_crops_as_torchvision(height: int, width: int, size: int) -> None:
    pixels = pictures(70, height, width)
    got = views.eval_views(pixels, PLAIN, size)
    want = reference.center_crop(reference.resize(unit(pixels), [size], antialias=True), [size])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert torch.equal(views.eval_views(pixels[33:34], PLAIN, size), got[33:34])


@given(factor=st.floats(0.0, 2.0), shift=st.floats(-0.5, 0.5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_colour_operations_are_torchvisions(factor: float, shift: float, seed: int) -> None:
    pixels = pictures(2, 9, 11, seed)
    pixels[1, :3] = pixels[1, :3, :, :1]  # grey pixels have no hue
    image = unit(pixels)
    by = torch.full((2, 1, 1, 1), factor)
    for name in ("brightness", "contrast", "saturation"):
        got = getattr(views, f"adjust_{name}")(image, by)
        want = getattr(reference, f"adjust_{name}")(image, factor)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    got = views.adjust_hue(image, torch.full((2, 1, 1, 1), shift))
    torch.testing.assert_close(got, reference.adjust_hue(image, shift), atol=1e-5, rtol=0)


def test_colour_is_applied_in_the_documented_order_with_the_drawn_factors() -> None:
    pixels, key, positions = pictures(20), Key(3), np.arange(20)
    drawn = replace(PLAIN, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.7, grey=0.3)
    got = views.train_views(pixels, key, positions, 0, drawn, 32)
    touched = key.uniform("jitter", positions, 0) < 0.7
    assert 0 < touched.sum() < 20
    grey = key.uniform("grey", positions, 0) < 0.3
    assert 0 < grey.sum() < 20
    for row in range(20):
        want = unit(pixels[row : row + 1])
        for name in ("brightness", "contrast", "saturation", "hue"):
            low, high = (-0.1, 0.1) if name == "hue" else (0.6, 1.4)
            factor = float(key.uniform(f"jitter-{name}", positions[row : row + 1], 0, low, high)[0])
            if touched[row]:
                want = getattr(reference, f"adjust_{name}")(want, factor)
        if grey[row]:
            want = reference.rgb_to_grayscale(want, 3)
        torch.testing.assert_close(got[row : row + 1], want, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (100, 60), (20, 200)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    count, drawn = 4000, ViewRecipe(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3))
    boxes = views.crop_boxes(
        Key(), np.arange(count), 0, np.full(count, height), np.full(count, width), drawn
    )
    left, top, right, bottom = (boxes * [width, height, width, height]).T
    assert np.allclose([left, top, right, bottom], np.rint([left, top, right, bottom]))
    assert min(left.min(), top.min()) >= 0
    assert right.max() <= width + 1e-9
    assert bottom.max() <= height + 1e-9
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(count)],
        float,
    )
    area, their_area = (right - left) * (bottom - top), theirs[:, 2] * theirs[:, 3]
    ratio, their_ratio = (right - left) / (bottom - top), theirs[:, 3] / theirs[:, 2]
    pairs = [
        (area / height / width, their_area / height / width), (ratio, their_ratio),
        (left / width, theirs[:, 1] / width), (top / height, theirs[:, 0] / height),
    ]  # fmt: skip
    for ours, want in pairs:
        error = 4 * np.sqrt((ours.var() + want.var()) / count) + 1e-9
        assert abs(ours.mean() - want.mean()) < error
        np.testing.assert_allclose(
            np.quantile(ours, [0.1, 0.9]), np.quantile(want, [0.1, 0.9]), atol=0.04
        )


def test_a_crop_is_torchvisions_resized_crop_inside() -> None:
    pixels, positions, drawn = pictures(30), np.arange(30), replace(PLAIN, crop_scale=(0.2, 0.9))
    got = views.train_views(pixels, Key(), positions, 0, drawn, 32)
    boxes = views.crop_boxes(Key(), positions, 0, np.full(30, 32), np.full(30, 32), drawn)
    for row, box in enumerate(np.rint(boxes * 32).astype(int).tolist()):
        left, top, right, bottom = box
        want = reference.resized_crop(
            unit(pixels[row : row + 1]),
            top,
            left,
            bottom - top,
            right - left,
            [32, 32],
            antialias=False,
        )
        torch.testing.assert_close(
            got[row, :, 3:-3, 3:-3], want[0, :, 3:-3, 3:-3], atol=1e-4, rtol=0
        )


def test_images_that_are_not_packed_get_the_same_crops() -> None:
    drawn = replace(PLAIN, crop_scale=(0.3, 0.9))
    boxes = views.crop_boxes(Key(5), np.arange(9), 1, np.full(9, 40), np.full(9, 40), drawn)
    affine = views._affine(Key(5), np.arange(9), 1, drawn, 40, 40)
    np.testing.assert_allclose(affine[:, 2] - affine[:, 0], boxes[:, 0] * 2 - 1, atol=1e-12)
    np.testing.assert_allclose(affine[:, 5] + affine[:, 4], boxes[:, 3] * 2 - 1, atol=1e-12)
    square = views.crop_boxes(Key(), np.arange(1), 0, np.array([10]), np.array([30]), PLAIN)
    np.testing.assert_allclose(square, [[1 / 3, 0, 2 / 3, 1]])


def test_rotation_zoom_and_translation_against_torchvision() -> None:
    pixels = smooth(33)
    key, at = Key(2), np.arange(1)
    drawn = replace(PLAIN, rotate=30.0, translate=0.1, zoom=(0.9, 1.3))
    got = views.train_views(pixels, key, at, 0, drawn, 33)
    angle = float(key.uniform("rotate", at, 0, -30, 30)[0])
    shift = [33 * float(key.uniform(f"translate-{a}", at, 0, -0.1, 0.1)[0]) for a in "xy"]
    zoom = float(key.uniform("zoom", at, 0, 0.9, 1.3)[0])
    bilinear = reference.InterpolationMode.BILINEAR
    want = reference.affine(unit(pixels), angle, shift, zoom, [0.0, 0.0], bilinear)  # type: ignore[arg-type]
    inside = slice(11, -11)
    torch.testing.assert_close(
        got[..., inside, inside], want[..., inside, inside], atol=2e-3, rtol=0
    )
    far = views.train_views(pixels, key, at, 0, replace(PLAIN, zoom=(0.25, 0.25)), 33)
    torch.testing.assert_close(far[0, :, 0, 0], unit(pixels)[0, :, 0, 0], atol=1e-5, rtol=0)


def test_shear_against_torchvision() -> None:
    pixels, key, at = smooth(33), Key(4), np.arange(1)
    got = views.train_views(pixels, key, at, 0, replace(PLAIN, shear=20.0), 33)
    slant = float(key.uniform("shear", at, 0, -20, 20)[0])
    bilinear = reference.InterpolationMode.BILINEAR
    want = reference.affine(unit(pixels), 0.0, [0, 0], 1.0, [slant, 0.0], bilinear)
    inside = slice(8, -8)
    torch.testing.assert_close(
        got[..., inside, inside], want[..., inside, inside], atol=2e-3, rtol=0
    )


def test_a_blur_comes_after_colour_and_before_the_normalisation() -> None:
    """For each image by its own draw, with the kernel of the view's side, whatever the batch."""
    pixels, key, at = pictures(40, 64, 64), Key(6), np.arange(40)
    still = replace(EVERYTHING, blur_p=0.5, blur_sigma=(0.3, 1.7))
    got = views.train_views(pixels, key, at, 1, still, 64)
    sharp = views.train_views(pixels, key, at, 1, replace(EVERYTHING, mean=PLAIN.mean, std=PLAIN.std), 64)
    sigma = np.where(key.uniform("blur", at, 1) < 0.5, key.uniform("blur-sigma", at, 1, 0.3, 1.7), 0)
    assert 10 < (sigma > 0).sum() < 30
    for row in range(40):
        want = reference.gaussian_blur(sharp[row], [7, 7], [sigma[row]] * 2) if sigma[row] else sharp[row]
        want = reference.normalize(want, list(EVERYTHING.mean), list(EVERYTHING.std))
        torch.testing.assert_close(got[row], want, atol=2e-5, rtol=0)
    assert torch.equal(views.train_views(pixels[7:9], key, at[7:9], 1, still, 64), got[7:9])
    off = replace(still, blur_p=0.0)
    unblurred = views.train_views(pixels, key, at, 1, EVERYTHING, 64)
    assert torch.equal(views.train_views(pixels, key, at, 1, off, 64), unblurred)
    assert torch.equal(got[sigma == 0], unblurred[sigma == 0])


def test_the_recipe_of_settings() -> None:
    assert views.recipe(ViewSettings(), (0.5,) * 3, (0.2,) * 3) == ViewRecipe(
        (0.2, 1.0), (3 / 4, 4 / 3), 0.5, jitter=(0.4, 0.4, 0.4, 0.1), jitter_p=0.8, grey=0.2,
        mean=(0.5,) * 3, std=(0.2,) * 3,
    )  # fmt: skip
    changed = ViewSettings(blur_p=0.5, blur_sigma=(0.2, 1.0), strong_ops=4, cutout=16)
    got = views.recipe(changed, (), ())
    assert (got.blur_p, got.blur_sigma, got.strong_ops, got.cutout) == (0.5, (0.2, 1.0), 4, 16)


def test_views_without_blur_and_strong_operations_draw_nothing_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that older settings keep their bits and their speed."""
    drawn = []
    real = Key.uniform
    monkeypatch.setattr(Key, "uniform", lambda key, name, *more: drawn.append(name) or real(key, name, *more))  # type: ignore[func-returns-value]
    views.train_views(pictures(4), Key(), np.arange(4), 0, EVERYTHING, 32)
    assert "flip" in drawn
    assert not [name for name in drawn if name.startswith(("blur", "strong", "cutout"))]
    on = replace(EVERYTHING, blur_p=1.0, strong_ops=1, cutout=3)
    views.train_views(pictures(4), Key(), np.arange(4), 0, on, 32)
    assert {"blur", "strong-operation-0", "strong-magnitude-0", "cutout-side", "cutout-x"} <= set(drawn)


def test_the_global_stream_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    views.train_views(pictures(4), Key(), np.arange(4), 0, EVERYTHING, 32)
    assert torch.equal(before, torch.get_rng_state())
