"""`ucl evaluate clusters`: pseudo-labels against true classes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ucl.agreement import nmi
from ucl.artifacts import FLAGS, Evaluation
from ucl.context import Context
from ucl.errors import DataError


def evaluate_clusters(labels: NDArray[np.int32], truth: NDArray[np.int64], *, context: Context | None = None,
                      raw: NDArray[np.int32] | None = None, flag: NDArray[np.uint8] | None = None) -> Evaluation:
    """ACC, purity, NMI, AMI and ARI of labels against classes.

    Rows without a label or without a class take no part and are counted.  Memory: the table (K, C) int64; ACC
    costs what `scipy.optimize.linear_sum_assignment` does on it.

    Args:
        labels: labels (N,), -1 = in no cluster.
        truth: classes (N,), -1 = unknown.
        context: where in a plan the labels were made.
        raw: labels (N,) before purification, and flag: (N,) what became of each row there; None where the labels were not purified.

    Returns:
        ``acc_one_to_one``: each class is given at most one cluster, the best matching; members of clusters
        that are given to none count as wrong.  ``purity``: each cluster is given its most frequent class.
        ``nmi_arithmetic``, ``nmi_geometric``, ``ami``, ``ari``; ``clusters``: those with members among the
        rows; ``unlabelled`` and ``unknown``: rows left out.  With ``raw``: ``purity_raw``, that of the raw labels, and for each flag
        that a row has ``purity_kept``, ``purity_cut_by_distance``, ...: the share of those rows whose class is the most frequent
        one of their raw cluster, so that ``purity_raw`` is the mean over all of them.  The confusion table is (K, C), clusters by
        classes.

    Raises:
        DataError: other lengths, or no row that has both a label and a class.
    """
    if labels.shape != truth.shape or labels.ndim != 1:
        raise DataError(f"targets: {truth.shape} rows, expected {labels.shape} as in /labels",
                        "give one class for every image of the list")
    use = (labels >= 0) & (truth >= 0)
    n = int(use.sum())
    if not n:
        raise DataError(f"none of {len(labels)} images has both a label and a class",
                        "give labels and classes of the same images")
    y, t = labels[use].astype(np.int64), truth[use].astype(np.int64)
    if y.max() > 100 * n:  # gappy ids of somebody's own: the table has a row for each id that is used
        y = np.unique(y, return_inverse=True)[1].astype(np.int64)
    table = _table(y, t)
    rows = [(name, value, math.nan, math.nan, n, protocol) for name, value, protocol in _scores(y, t, table)]
    counts = (("clusters", (table.sum(axis=1) > 0).sum(), n), ("unlabelled", (labels < 0).sum(), len(labels)),
              ("unknown", ((truth < 0) & (labels >= 0)).sum(), len(labels)))
    rows += [(name, float(value), math.nan, math.nan, of, "count") for name, value, of in counts]
    if raw is not None and flag is not None:
        rows += _purity_by_flag(raw, flag, truth)
    return Evaluation(rows, table, context=context or Context())


def _purity_by_flag(raw: NDArray[np.int32], flag: NDArray[np.uint8],
                    truth: NDArray[np.int64]) -> list[tuple[str, float, float, float, int, str]]:
    """Purity of the raw clusters, over all rows and over those of each flag."""
    use = (raw >= 0) & (truth >= 0)
    if not use.any():
        return []
    y, t, f = raw[use].astype(np.int64), truth[use], flag[use]
    classes = int(t.max()) + 1
    pair, count = np.unique(y * classes + t, return_counts=True)               # no table: of N clusters there may be N
    best = pair[np.lexsort((pair, -count, pair // classes))]                  # by cluster, its most frequent class first
    cluster, first = np.unique(best // classes, return_index=True)
    right = t == (best % classes)[first][np.searchsorted(cluster, y)]
    rows = [("purity_raw", float(right.mean()), math.nan, math.nan, len(y), "many clusters to one class, before purification")]
    for value, name in enumerate(FLAGS):
        n = int((f == value).sum())
        if n:
            share = float(right[f == value].mean())
            rows.append((f"purity_{name.lower()}", share, math.nan, math.nan, n, "in the majority class of the raw cluster"))
    return rows


def _table(y: NDArray[np.int64], t: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts (K, C) of cluster and class."""
    k, c = int(y.max()) + 1, int(t.max()) + 1
    return np.bincount(y * c + t, minlength=k * c).reshape(k, c).astype(np.int64)


def _scores(y: NDArray[np.int64], t: NDArray[np.int64],
            table: NDArray[np.int64]) -> list[tuple[str, float, str]]:
    """(name, value, protocol) of every score."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

    n = len(y)
    full = table[table.sum(axis=1) > 0]
    match = full[linear_sum_assignment(full, maximize=True)].sum()
    arithmetic, geometric = nmi(y, t)
    return [("acc_one_to_one", float(match) / n, "Hungarian, one cluster per class at most"),
            ("purity", float(full.max(axis=1).sum()) / n, "many clusters to one class"),
            ("nmi_arithmetic", arithmetic, "I / mean(H, H)"),
            ("nmi_geometric", geometric, "I / sqrt(H H), as DeepCluster"),
            ("ami", float(adjusted_mutual_info_score(t, y)), "scikit-learn, arithmetic"),
            ("ari", float(adjusted_rand_score(t, y)), "scikit-learn")]
