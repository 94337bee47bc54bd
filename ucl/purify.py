"""`ucl purify`: drop the pseudo-labels that are likely to be wrong.

Keep-nearest is PCP's CPr: of each cluster the floor(size * share) members nearest to the member mean stay.
Labels are only ever taken away; a row that has none keeps none.  The identity at the default settings.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import BAD_IMAGE, CUT_BY_DISTANCE, DISSOLVED, KEPT, Labels, replace
from ucl.context import Context
from ucl.errors import DataError
from ucl.settings import PurifySettings

_ROUNDING = 1e-9
"""Makes floor(size * share) exact for shares written in decimal: 10 * (1 - 0.9) keeps 1, not 0."""


def purify(labels: Labels, settings: PurifySettings, context: Context) -> Labels:
    """The same labels with the doubtful ones set to -1.

    First the members far from the mean are cut (flag CUT_BY_DISTANCE), ties by row; then clusters with fewer
    than ``min_size`` members left are dissolved (flag DISSOLVED for the members they still had).  Centroids,
    means, sizes, anchors and the history stay those of the clustering, and so do weights: what -1 means is
    the objective's to say. Takes time for one sort of N.

    Args:
        labels: labels (N,) int32; distances are needed only if ``keep_nearest`` is below 1.
        settings: what `ucl purify --help` lists.
        context: where in a plan this happens.

    Raises:
        DataError: ``keep_nearest`` below 1 and labels without distances, or a member without one.
    """
    context = dataclasses.replace(context, stage=context.stage or "purify")
    member = np.flatnonzero(labels.labels >= 0)
    _, cluster = np.unique(labels.labels[member], return_inverse=True)        # (M,) 0..used-1
    cut = np.zeros(len(member), bool)
    if settings.keep_nearest < 1:
        cut = _far(_distance(labels, member), cluster, settings.keep_nearest)
    left = np.bincount(cluster[~cut], minlength=int(cluster.max(initial=-1)) + 1)
    small = ~cut & (left[cluster] < settings.min_size)
    new, flag = labels.labels.copy(), _flag(labels)
    new[member[cut | small]] = -1
    flag[member[cut]] = CUT_BY_DISTANCE
    flag[member[small]] = DISSOLVED
    counts = {"keep_nearest": settings.keep_nearest, "min_size": settings.min_size, "members": len(member),
              "kept": int((new >= 0).sum()), "cut_by_distance": int(cut.sum()), "dissolved": int(small.sum()),
              "clusters": len(left), "clusters_left": len(np.unique(new[new >= 0]))}
    purified: Labels = replace(labels, labels=new, flag=flag, info={**labels.info, "purify": counts},
                               recipe="", context=context, provenance=list(labels.provenance))
    return purified


def _far(distance: NDArray[np.float32], cluster: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """Members beyond the nearest floor(size * share) of their cluster; (M,) bool.

    Source: PCP, section on CPr and released code; the rounding is exact for decimal shares.
    """
    size = np.bincount(cluster)
    keep = np.floor(size * share + _ROUNDING).astype(np.int64)
    order = np.lexsort((distance, cluster))                                   # stable: ties by row
    rank = np.arange(len(order)) - (np.cumsum(size) - size)[cluster[order]]
    far = np.empty(len(order), bool)
    far[order] = rank >= keep[cluster[order]]
    return far


def _distance(labels: Labels, member: NDArray[np.int64]) -> NDArray[np.float32]:
    """Distances (M,) of the members."""
    hint = "labels made by ucl cluster have it; or leave out --keep-nearest"
    if labels.distance is None:
        raise DataError("labels: no /distance, which keep-nearest needs", hint)
    distance = labels.distance[member]
    bad = np.isnan(distance)
    if bad.any():
        raise DataError(f"labels: /distance: NaN in row {member[np.argmax(bad)]}, expected a number in every "
                        "row that has a label", hint)
    return distance


def _flag(labels: Labels) -> NDArray[np.uint8]:
    """The flags (N,), a copy; where none were given, BAD_IMAGE by status and KEPT otherwise."""
    if labels.flag is not None:
        return labels.flag.copy()
    flag = np.full(len(labels.labels), KEPT, np.uint8)
    if labels.samples is not None:
        flag[~labels.samples.ok] = BAD_IMAGE
    return flag
