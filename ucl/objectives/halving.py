"""A cluster in two: 2-means, or halves of equal size; ODC's repair of small clusters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ucl.keys import Key

if TYPE_CHECKING:
    import torch

ITERATIONS, STARTS = 20, 10
"""ODC, released code: 20 iterations; scikit-learn's default number of restarts at that time."""


def halves(x: torch.Tensor, key: Key, operation: str, *, balanced: bool = False) -> NDArray[np.bool_]:
    """Which members leave a cluster that is split; neither side is empty where there are two members.

    2-means; where that finds one side only, as of equal rows, random halves.  Which of the sides leaves is drawn too: in the paper
    at random, in the released code the second one, whose number says as little.

    Args:
        x: members (n, D) float32.
        key, operation: name the draws.
        balanced: halves of equal size instead, cut at the median of 2-means' axis; of an odd number the larger one may leave.

    Returns:
        (n,) bool.
    """
    n = len(x)
    side, along = two_means(x, key, operation)
    if not 0 < side.sum() < n:
        side = np.zeros(n, bool)
        side[key.permutation(f"{operation}/halves", n)[:n // 2]] = True
    elif balanced:
        side = np.zeros(n, bool)
        side[np.argsort(along, kind="stable")[n - n // 2:]] = True
    return ~side if int(key.bits(f"{operation}/side", np.zeros(1, np.int64))[0]) & 1 else side


def two_means(x: torch.Tensor, key: Key, operation: str) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """2-means by k-means++ starts and Lloyd's iterations; the best of `STARTS` starts, the first of them on a tie.

    All starts go at once: an iteration is two products of (n, D) with (D, STARTS).

    Args:
        x: (n, D) float32.
        key, operation: name the draws.

    Returns:
        (n,) bool, who is not on the first row's side (nobody where the rows are equal), and (n,) float32, where each row lies on
        the axis between the means.
    """
    import torch

    n = len(x)
    first, second = _starts(x, key, operation)
    a, b = x[first], x[second]
    total = x.sum(dim=0)
    before = None
    for _ in range(ITERATIONS):
        axis = b - a
        along = x @ axis.T - ((b * b).sum(1) - (a * a).sum(1)) / 2
        side = along > 0
        if before is not None and torch.equal(side, before):
            break
        before = side
        ones = side.to(x.dtype)
        count, sums = ones.sum(dim=0)[:, None], ones.T @ x
        b = torch.where(count > 0, sums / count.clamp_min(1), b)
        a = torch.where(count < n, (total - sums) / (n - count).clamp_min(1), a)
    ones = side.double()
    count, sums = ones.sum(dim=0), ones.to(x.dtype).T @ x
    rest = (total - sums).double().square().sum(1) / (n - count).clamp_min(1)
    between = sums.double().square().sum(1) / count.clamp_min(1) + rest     # the sum of squares is least where this is largest
    best = int(between.argmax())
    found, axis_of_it = side[:, best].cpu().numpy(), along[:, best].cpu().numpy()
    return (~found, -axis_of_it) if found[0] else (found, axis_of_it)


def _starts(x: torch.Tensor, key: Key, operation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that the starts begin with: one drawn evenly, the other by its squared distance from it; (STARTS,) int64 each."""
    import torch

    n, draws = len(x), np.arange(STARTS)
    first = np.minimum((key.uniform(f"{operation}/first", draws) * n).astype(np.int64), n - 1)
    at = torch.from_numpy(first).to(x.device)
    square = (x * x).sum(dim=1)
    distance = (square[:, None] + square[at] - 2 * (x @ x[at].T)).clamp_min(0).double().cpu().numpy()
    distance[first, draws] = 0
    reach = np.cumsum(distance, axis=0)
    second = (reach <= key.uniform(f"{operation}/second", draws) * reach[-1]).sum(axis=0)
    return at, torch.from_numpy(np.minimum(second, n - 1)).to(x.device)
