"""SCAN's two losses: an image and its neighbour get one cluster while all clusters are used, and the sure labels teach strong views.

Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool: "SCAN: Learning to Classify Images without Labels", ECCV 2020, and its
released code; ProFeat uses both as they are.  All in float32, from logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError

if TYPE_CHECKING:
    import torch

    from ucl.keys import Key

LEAST_LOG = -100.0
"""Least logarithm of a similarity, that of torch's binary cross-entropy in the released code: a similarity of 0 costs exactly 100."""

LEAST_SHARE = 1e-8
"""Least share of a cluster whose logarithm is taken, as in the released code."""


class ScanLoss(NamedTuple):
    """The loss of a batch and its two parts; scalars."""

    total: torch.Tensor
    consistency: torch.Tensor
    entropy: torch.Tensor


def scan_loss(anchors: torch.Tensor, neighbors: torch.Tensor, *, entropy_weight: float = 5.0) -> ScanLoss:
    """Mean of -log of the probability that both are in one cluster, minus the weighted entropy of the anchors' mean assignment.

    One neighbour of each image and the batch's mean, as the released code; ProFeat's equation 2 sums over all neighbours and takes the
    mean over the data set, against which a weight of 5 would be some twenty times weaker.

    Args:
        anchors: (B, K) logits of strong views; they alone enter the entropy.
        neighbors: (B, K) logits of strong views of a neighbour of each.
        entropy_weight: lambda; 5 in SCAN.

    Returns:
        total = consistency - entropy_weight * entropy, and both parts.
    """
    import torch

    a, n = anchors.float(), neighbors.float()
    agreed = torch.logsumexp(torch.log_softmax(a, dim=1) + torch.log_softmax(n, dim=1), dim=1)
    consistency = -agreed.clamp_min(LEAST_LOG).mean()
    entropy = mean_entropy(torch.softmax(a, dim=1))
    return ScanLoss(consistency - entropy_weight * entropy, consistency, entropy)


def mean_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Entropy, in nats, of the mean of (B, K) assignments: log K where all clusters are used alike, 0 where one is."""
    share = probabilities.mean(dim=0).clamp_min(LEAST_SHARE)
    return -(share * share.log()).sum()


def draw_neighbors(neighbors: NDArray[np.integer], rows: NDArray[np.int64], start: int, key: Key, *, own: bool = True) -> NDArray[np.int64]:
    """One neighbour of each image of a batch, uniformly.

    As in the released code an image is among its own neighbours where the search has found it, and stays there: one pair in 21 is
    then of two views of one image.

    Args:
        neighbors: (N, M) rows of the nearest images, -1 = none.
        rows: (B,) images.
        start: draw position of the first of them in the epoch; the draw depends on it and on ``key`` alone.
        key: of the epoch.
        own: whether an image may be its own neighbour.

    Returns:
        (B,) int64.

    Raises:
        DataError: an image without a neighbour to draw.
    """
    listed = neighbors[rows].astype(np.int64)
    usable = listed >= 0
    if not own:
        usable &= listed != rows[:, None]
    count = usable.sum(axis=1)
    if not count.all():
        raise DataError(f"neighbors: row {rows[np.argmin(count)]} has no neighbour, expected at least one", "ucl neighbors of these images' features")
    at = key.uniform("neighbor", start + np.arange(len(rows), dtype=np.int64))
    nth = (at * count).astype(np.int64)
    column = (usable.cumsum(axis=1) > nth[:, None]).argmax(axis=1)
    found: NDArray[np.int64] = listed[np.arange(len(rows)), column]
    return found


class SelfLabelLoss(NamedTuple):
    """The loss of a batch, None where nothing in it is confident and no step may be taken; and how many images are."""

    loss: torch.Tensor | None
    confident: int


def self_label_loss(weak: torch.Tensor, strong: torch.Tensor, *, threshold: float = 0.99, balanced: bool = True) -> SelfLabelLoss:
    """Cross-entropy of strong views with the clusters of the same images' fixed views, where those are sure.

    Args:
        weak: (B, K) logits of the fixed views; no gradient reaches them.
        strong: (B, K) logits of strong views.
        threshold: an image is confident if its largest probability is above it, not if it is equal.
        balanced: every cluster among the confident counts alike (`class_weights`), as in the released code.

    Returns:
        The loss, a mean over the confident images, or None; weights must then stay as they are, moments of the optimizer too.
    """
    import torch
    from torch.nn import functional

    p = torch.softmax(weak.detach().float(), dim=1)
    sure = confident(p, threshold)
    count = int(sure.sum())
    if not count:
        return SelfLabelLoss(None, 0)
    target = p.argmax(dim=1)[sure]
    weight = class_weights(target, p.shape[1]) if balanced else None
    return SelfLabelLoss(functional.cross_entropy(strong.float()[sure], target, weight), count)


def confident(probabilities: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which of (B, K) assignments have a probability above the threshold; (B,) bool."""
    return probabilities.amax(dim=1) > threshold


def class_weights(target: torch.Tensor, k: int) -> torch.Tensor:
    """Weights of clusters that make a weighted mean over images the plain mean, over clusters present, of each one's mean.

    Args:
        target: (n,) int64 clusters.
        k: number of clusters.

    Returns:
        (k,) float32: n / count, 1 where the count is 0.
    """
    import torch
    from torch.nn import functional

    count = functional.one_hot(target, k).sum(dim=0)
    return torch.where(count > 0, len(target) / count.clamp_min(1), 1.0)
