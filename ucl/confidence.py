"""What a classifier's probabilities say without any truth: which images it is sure of, and which of several classifiers to keep.

The score is that of SCAN's released code (Van Gansbeke et al., ECCV 2020), which takes it on the test images; here it is taken on
training images, or on a part of them that was held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, UsageError
from ucl.keys import Key

LEAST_LOG, LEAST_SHARE = -100.0, 1e-8
"""As in SCAN's loss: a similarity of 0 costs exactly 100, and no share's logarithm is taken below this."""

_FLOATS = 1 << 22
"""Numbers gathered at a time, 32 MB."""


def confident_labels(probabilities: NDArray[np.floating], threshold: float, ok: NDArray[np.bool_] | None = None) -> NDArray[np.int32]:
    """The most probable cluster of each image whose probability is above the threshold.

    Above, not equal: the paper keeps images of at least t_s, and pairs those above it; one exactly there would have no partner.  From a
    threshold of 0.5 on equal labels are the paper's pairs, as no two clusters can be above it.

    Args:
        probabilities: (N, K); a threshold is compared in their own precision.
        threshold: t_s of ProFeat; 0 keeps every image, 1 none.
        ok: (N,) usable images; all if None.

    Returns:
        (N,) int32; -1 for an image below, or a bad one; ties to the lower cluster.

    Raises:
        DataError: a usable row that is not of finite numbers.
    """
    usable = np.ones(len(probabilities), bool) if ok is None else ok
    top = probabilities.max(axis=1)
    wrong = usable & ~np.isfinite(probabilities).all(axis=1)
    if wrong.any():
        raise DataError(f"/probs: row {int(np.argmax(wrong))}: not finite, expected probabilities",
                        "training has diverged: go back an epoch, or lower the learning rate")
    sure = usable & (top > np.asarray(threshold, probabilities.dtype))
    return np.where(sure, probabilities.argmax(axis=1), -1).astype(np.int32)


class Score(NamedTuple):
    """How well a classifier keeps neighbours together while it uses all clusters; lower is better."""

    total: float
    consistency: float
    entropy: float


def selection_score(probabilities: NDArray[np.floating], neighbors: NDArray[np.integer], rows: NDArray[np.int64] | None = None, *,
                    entropy_weight: float = 1.0) -> Score:
    """SCAN's loss on fixed views, over all listed neighbours of the images asked for; no truth.

    Args:
        probabilities: (N, K) of fixed views in evaluation mode.
        neighbors: (N, M) rows of the nearest images, -1 = none; released code: the image itself and its 5 nearest.
        rows: images to score, at least one; all if None.  Their neighbours may be any.
        entropy_weight: 1 in the released code, where training has 5.

    Returns:
        consistency - entropy_weight * entropy, and both; worked in float64.  Time and memory: M * K numbers for each row, a few
        thousand rows at a time.

    Raises:
        DataError: other numbers of rows, a neighbour that is no row, no pair at all, or a probability that is not finite.
    """
    n, k = probabilities.shape
    if len(neighbors) != n or neighbors.max(initial=-1) >= n:
        raise DataError(f"neighbors: {len(neighbors)} rows up to image {int(neighbors.max(initial=-1))}, expected {n} rows of images 0 to {n - 1}",
                        "ucl neighbors of these images' features")
    rows = np.arange(n) if rows is None else rows
    cost, pairs, share = 0.0, 0, np.zeros(k)
    step = max(1, _FLOATS // (k * max(1, neighbors.shape[1])))
    for start in range(0, len(rows), step):
        at = rows[start:start + step]
        own, near = probabilities[at].astype(np.float64), neighbors[at]
        similar = np.einsum("ik,imk->im", own, probabilities[np.maximum(near, 0)].astype(np.float64))
        with np.errstate(divide="ignore"):
            each = -np.maximum(np.log(np.minimum(similar, 1.0)), LEAST_LOG)
        cost += float(each[near >= 0].sum())
        pairs += int((near >= 0).sum())
        share += own.sum(axis=0)
    if not pairs or not np.isfinite(cost) or not np.isfinite(share).all():
        raise DataError(f"selection: {pairs} pairs of neighbours, cost {cost}: expected finite probabilities and at least one pair",
                        "score usable images alone, with their neighbours")
    share = np.maximum(share / len(rows), LEAST_SHARE)
    entropy = float(-(share * np.log(share)).sum())
    return Score(cost / pairs - entropy_weight * entropy, cost / pairs, entropy)


def lowest(scores: Sequence[float]) -> int:
    """The checkpoint, or the ensemble's member, to keep: that of the lowest score, the earlier of equals.

    Raises:
        DataError: none, or one that is no number.
    """
    found = np.asarray(scores, np.float64)
    if not len(found) or np.isnan(found).any():
        raise DataError(f"scores: found {list(scores)}, expected one number for each candidate", "score every candidate on the same images")
    return int(np.argmin(found))


def held_out(ok: NDArray[np.bool_], share: float, key: Key) -> NDArray[np.bool_]:
    """Images kept from training to choose by: each image's own draw, whatever the others are; (N,) bool.

    Args:
        ok: (N,) usable images.
        share: of them that is held out.
        key: of the run, not of an epoch.

    Raises:
        UsageError: nothing is held out, or nothing left to train on.
    """
    drawn = key.uniform("held-out", np.arange(len(ok), dtype=np.int64)) < share
    found: NDArray[np.bool_] = ok & drawn
    if not found.any() or not (ok & ~drawn).any():
        raise UsageError(f"held-out: found a share of {share:g}, which holds out {int(found.sum())} of {int(ok.sum())} images",
                         "another share, or choose on the training images")
    return found
