"""Which images an epoch draws, in which order.  Keyed, vectorised, torch-free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError
from ucl.keys import Key


def draw_epoch(labels: NDArray[np.int32], sampler: str, epoch_length: float, key: Key) -> NDArray[np.int64]:
    """Rows to train on, one for each draw position.

    Args:
        labels: (N,) int32; rows with -1 are never drawn.
        sampler: one of TrainSettings.sampler.
        epoch_length: M = int(epoch_length * number of labelled rows), at least 1.
        key: the epoch's key.

    Returns:
        (M,) int64 row numbers.

    Raises:
        DataError: no row has a label.
    """
    kept = np.flatnonzero(labels >= 0)
    if not len(kept):
        raise DataError("labels: found no image in a cluster, expected at least one", "ucl info on the labels shows the flags")
    m = max(1, int(epoch_length * len(kept)))
    if sampler == "shuffle":
        return _shuffled(kept, m, key)
    if sampler == "uniform":
        return _uniform(labels, kept, m, key)
    drawn = _truncated(labels, kept, m, key)
    return drawn if sampler == "truncated" else _misindex(labels, kept, drawn)


def _shuffled(kept: NDArray[np.int64], m: int, key: Key) -> NDArray[np.int64]:
    """Each row once in a random order, over again for epochs longer than the data."""
    passes = -(-m // len(kept))
    orders = [kept[key.permutation(f"shuffle-{i}", len(kept))] for i in range(passes)]
    return np.concatenate(orders)[:m]


def _by_cluster(labels: NDArray[np.int32], kept: NDArray[np.int64], key: Key) -> tuple[
        NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows grouped by cluster in ascending id, in random order inside each, with the non-empty clusters' starts and sizes."""
    mixed = kept[key.permutation("members", len(kept))]
    grouped = mixed[np.argsort(labels[mixed], kind="stable")]
    _, start, size = np.unique(labels[grouped], return_index=True, return_counts=True)
    return grouped, start.astype(np.int64), size.astype(np.int64)


def _fill(grouped: NDArray[np.int64], start: NDArray[np.int64], size: NDArray[np.int64], quota: NDArray[np.int64],
          replace: NDArray[np.bool_], key: Key) -> NDArray[np.int64]:
    """``quota[c]`` draws from each cluster c: the first of its random order, or independent ones where ``replace``."""
    total = int(quota.sum())
    cluster = np.repeat(np.arange(len(quota)), quota)
    nth = np.arange(total) - np.repeat(np.cumsum(quota) - quota, quota)
    with_return = (key.uniform("replace", np.arange(total)) * size[cluster]).astype(np.int64)
    return grouped[start[cluster] + np.where(replace[cluster], with_return, nth)]


def _uniform(labels: NDArray[np.int32], kept: NDArray[np.int64], m: int, key: Key) -> NDArray[np.int64]:
    """Equal draws per non-empty cluster: floor(M / K') each, and M mod K' random clusters one more.

    DeepCluster section 3.3 with counts held to +-1.  A cluster with at least its quota of members is drawn without
    replacement, a smaller one with.
    """
    grouped, start, size = _by_cluster(labels, kept, key)
    quota = np.full(len(size), m // len(size), np.int64)
    quota[key.permutation("remainder", len(size))[: m % len(size)]] += 1
    drawn = _fill(grouped, start, size, quota, size < quota, key)
    return drawn[key.permutation("order", m)]


def _truncated(labels: NDArray[np.int32], kept: NDArray[np.int64], m: int, key: Key) -> NDArray[np.int64]:
    """The released UnifLabelSampler: floor(M / K') + 1 draws each, with replacement iff size <= that, shuffled, cut to M."""
    grouped, start, size = _by_cluster(labels, kept, key)
    quota = np.full(len(size), m // len(size) + 1, np.int64)
    drawn = _fill(grouped, start, size, quota, size <= quota, key)
    return drawn[key.permutation("order", len(drawn))[:m]]


def _misindex(labels: NDArray[np.int32], kept: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """What the released loader made of these draws: its data set is re-ordered cluster by cluster, so that draw i is
    answered by the i-th image of that order; image and label agree, but the balance is lost."""
    reordered = kept[np.argsort(labels[kept], kind="stable")]
    return reordered[np.searchsorted(kept, drawn)]


def cluster_weights(labels: NDArray[np.int32], k: int, rule: str) -> NDArray[np.float32]:
    """Weight of each cluster in the loss.

    Args:
        labels: (N,) int32; -1 counts nowhere.
        k: number of clusters.
        rule: none -> 1; inverse -> 1/N_c (DeepCluster section 3.3); inverse-sqrt -> 1/sqrt(N_c) (ODC section 3.2).

    Returns:
        (k,) float32, scaled to mean 1 over the labelled images; 0 for empty clusters.
    """
    size = np.bincount(labels[labels >= 0], minlength=k).astype(np.float64)
    power = {"none": 0.0, "inverse": -1.0, "inverse-sqrt": -0.5}[rule]
    weight = np.where(size > 0, np.maximum(size, 1) ** power, 0.0)
    return np.asarray(weight * (size.sum() / (weight * size).sum()), np.float32)
