"""ucl.blur against torchvision's Gaussian blur."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import gaussian_blur

from ucl.blur import blur, kernel_size, widths
from ucl.keys import Key


def images(n: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, 3, side, side))).float()


@pytest.mark.parametrize("side", [32, 96])
def test_each_image_is_torchvisions(side: int) -> None:
    x, size = images(6, side), kernel_size(side)
    sigma = np.array([0.1, 0.0, 0.5, 2.0, 1.3, 0.0])
    found = blur(x, sigma, size)
    for i in range(6):
        wanted = gaussian_blur(x[i:i + 1], [size, size], [sigma[i]] * 2)[0] if sigma[i] else x[i]
        torch.testing.assert_close(found[i], wanted, rtol=0, atol=2e-6)
    assert torch.equal(found[[1, 5]], x[[1, 5]])


def test_a_view_does_not_depend_on_its_batch_and_keeps_its_place() -> None:
    x, sigma = images(9, 40), np.linspace(0, 2, 9)
    found = blur(x, sigma, 5)
    assert all(torch.equal(blur(x[i:i + 1], sigma[i:i + 1], 5)[0], found[i]) for i in range(9))
    dot = torch.zeros(1, 1, 9, 9)
    dot[0, 0, 4, 4] = 1
    spread = blur(dot, np.array([1.0]), 5)[0, 0]
    assert torch.equal(spread, spread.flip(0))                                # no shift, as an even kernel would give
    assert torch.equal(spread, spread.T)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-6)
    assert blur(x, np.zeros(9), 5) is x


def test_it_commutes_with_the_normalisation() -> None:
    x, sigma = images(4, 32), np.full(4, 1.5)
    torch.testing.assert_close((blur(x, sigma, 3) - 0.45) / 0.22, blur((x - 0.45) / 0.22, sigma, 3), rtol=0, atol=1e-5)


def test_kernels_are_odd() -> None:
    assert [kernel_size(side) for side in (8, 32, 64, 96, 224)] == [3, 3, 7, 9, 23]
    assert all(kernel_size(side) % 2 for side in range(8, 300))


def test_widths_are_keyed_and_drawn_for_each_image() -> None:
    at = np.arange(20_000)
    sigma = widths(Key(1), at, 0, 0.5)
    blurred = sigma[sigma > 0]
    assert len(blurred) / len(at) == pytest.approx(0.5, abs=0.02)
    assert (blurred >= 0.1).all()
    assert (blurred < 2).all()
    assert blurred.mean() == pytest.approx(1.05, abs=0.02)
    assert np.array_equal(widths(Key(1), at[50:60], 0, 0.5), sigma[50:60])
    assert not np.array_equal(widths(Key(1), at, 1, 0.5), sigma)
    assert not widths(Key(1), at, 0, 0.0).any()
