"""How far two labelings of the same images agree: NMI in both normalisations, and churn; and whether one has collapsed.

DeepCluster divides the mutual information by the geometric mean of the entropies (section 4.1 and its figure
2), and so do UIC's tables; scikit-learn's default has been the arithmetic mean since 0.22, which SCAN and
ProFeat report. Neither is ever called plain "NMI" here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

COLLAPSE_K = 10
COLLAPSE_SHARE = 0.5
COLLAPSE_CLUSTERS = 0.1


def nmi(a: NDArray[np.integer], b: NDArray[np.integer]) -> tuple[float, float]:
    """Normalised mutual information of two labelings.

    Args:
        a: ids (N,); b: ids (N,); any integers, every row counts.

    Returns:
        (arithmetic, geometric).  As in scikit-learn: 1 where both are constant or empty, 0 where one of them
        is.
    """
    from sklearn.metrics import normalized_mutual_info_score

    if not len(a):
        return 1.0, 1.0
    arithmetic, geometric = (float(normalized_mutual_info_score(a, b, average_method=method)) for method in ("arithmetic", "geometric"))
    return arithmetic, geometric


def compare_labelings(a: NDArray[np.int32], b: NDArray[np.int32]) -> dict[str, float]:
    """What the training log says of two consecutive labelings, over the rows that have a label in both.

    Args:
        a: labels (N,) int32, -1 = none; b: labels (N,) int32 of the same images.

    Returns:
        ``nmi_arithmetic``, ``nmi_geometric``, and ``churn``: the share of rows whose id changed, which says
        something only where ids persist (a warm start, ODC, UIC).  NaN each if no row has a label in both.

    Raises:
        ValueError: labelings of different length.
    """
    if a.shape != b.shape:
        raise ValueError(f"labelings of {a.shape} and {b.shape} rows")
    both = (a >= 0) & (b >= 0)
    if not both.any():
        return dict.fromkeys(("nmi_arithmetic", "nmi_geometric", "churn"), float("nan"))
    a, b = a[both], b[both]
    arithmetic, geometric = nmi(a, b)
    return {"nmi_arithmetic": arithmetic, "nmi_geometric": geometric, "churn": float((a != b).mean())}


def collapsed(size: NDArray[np.int64]) -> bool:
    """Whether clusters of these sizes have collapsed: one is left, under a tenth are filled, or one of ten or more has half."""
    k, filled, n = len(size), int((size > 0).sum()), int(size.sum())
    return filled <= 1 or filled < COLLAPSE_CLUSTERS * k or (k >= COLLAPSE_K and int(size.max()) > COLLAPSE_SHARE * n)
