"""`ucl evaluate knn`: weighted nearest neighbours on frozen features, the cheap monitor of a run."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.artifacts import LEFT_OUT, Evaluation, Features
from ucl.errors import DataError
from ucl.matrix import chunks
from ucl.pca import usable_rows
from ucl.search import Points, nearest
from ucl.settings import KnnSettings

log = logging.getLogger(__name__)

QUERIES = 4096
"""Images whose neighbours vote at a time: memory is bounded."""


def evaluate_knn(features: Features, truth: NDArray[np.int64], settings: KnnSettings, *,
                 test: tuple[Features, NDArray[np.int64]] | None = None, threads: int) -> Evaluation:
    """Share of images whose class the neighbours vote for.

    The k nearest by cosine s vote with exp(s / tau) each; of classes with equal votes the lowest wins (Wu et
    al. 2018; SeLa: k = 50, tau = 0.1).  Without ``test`` every image is left out in its turn: it is excluded
    by its row, so copies of it elsewhere do vote.  Rows that are not OK or of unknown class neither vote nor
    are counted.
    Memory: a copy of each set, the neighbours, and votes (4,096, C) float64; the search is that of `ucl.search`.

    Args:
        features: (N, D) float32 of the images that vote.
        truth: their classes (N,), -1 = unknown.
        settings: what `ucl evaluate knn --help` lists.
        test: features and classes of the images that are asked about; None = leave one out.
        threads: threads of the search; the result does not depend on them.

    Returns:
        ``knn_top1`` with its 95 % Wilson interval, the number of rows left out, and what became of each image asked about.

    Raises:
        DataError: classes of another length, features of other dimensions, a usable row that is not finite,
            or fewer than one voter for each image.
    """
    x, y, rows = labelled(features, truth)
    protocol, out = "leave-one-out", len(truth) - len(rows)
    queries, classes = x, y
    if test is not None:
        queries, classes, rows = labelled(*test)
        out, protocol = out + len(test[1]) - len(rows), "train/test"
        if queries.shape[1] != x.shape[1]:
            raise DataError(f"/features: {queries.shape[1]} dimensions, expected {x.shape[1]} as in the "
                            "images that vote", "use features of the same layer of the same model")
    k = min(settings.neighbors, len(x) - (test is None))
    if k < 1:
        raise DataError(f"{len(x)} images of known class, expected at least two",
                        "give the classes of more images")
    if k < settings.neighbors:
        log.warning("knn: %d neighbours instead of %d, there are no more", k, settings.neighbors)
    voters = Points(x, cosine=True)
    near, distance = nearest(voters if test is None else Points(queries, cosine=True), voters, k, threads=threads)
    said = _vote(y, near, 1 - distance, settings.tau)
    n, right = len(classes), int((said == classes).sum())
    low, high = wilson(right, n)
    protocol = f"cosine, k={k}, exp(s/{settings.tau:g}), {protocol}"
    return Evaluation([("knn_top1", right / n, low, high, n, protocol),
                       ("left_out", float(out), math.nan, math.nan, n + out, "count")],
                      **judged(test or (features, truth), rows, said), context=features.context)


def wilson(right: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's score interval of a share, 95 % by default."""
    p, zz = right / n, z * z / n
    centre = (p + zz / 2) / (1 + zz)
    half = z / (1 + zz) * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def labelled(features: Features,
             truth: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Features (n, D), classes (n,) and row numbers (n,) of the usable images of known class.

    Raises:
        DataError: classes of another length, a usable row that is not finite, or no such image.
    """
    if truth.shape != (len(features.features),):
        raise DataError(f"targets: {truth.shape} rows, expected {len(features.features)} as in /features",
                        "give one class for every image of the list")
    rows = usable_rows(features)
    rows = rows[truth[rows] >= 0]
    if not len(rows):
        raise DataError(f"none of {len(truth)} images is usable and of known class",
                        "give the classes of these images")
    return features.features[rows], truth[rows].astype(np.int64), rows


def judged(asked: tuple[Features, NDArray[np.int64]], rows: NDArray[np.int64], said: NDArray[np.int64]) -> dict[str, Any]:
    """What an `Evaluation` tells of each image.

    Args:
        asked: N images and their classes.
        rows: (n,) those that were classified.
        said: (n,) the classes predicted for them.
    """
    features, truth = asked
    correct, predicted = np.full(len(truth), LEFT_OUT, np.uint8), np.full(len(truth), -1, np.int32)
    correct[rows], predicted[rows] = said == truth[rows], said
    return {"samples": features.samples, "correct": correct, "predicted": predicted, "truth": truth.astype(np.int32)}


def _vote(y: NDArray[np.int64], near: NDArray[np.int64], cosine: NDArray[np.float64], tau: float) -> NDArray[np.int64]:
    """The class voted for; (Q,) int64."""
    known, y = np.unique(y, return_inverse=True)
    c = len(known)
    said = np.empty(len(near), np.int64)
    for part in chunks(len(near), QUERIES):
        weight = np.exp((cosine[part] - cosine[part].max(axis=1, keepdims=True)) / tau)
        cell = np.arange(len(weight))[:, None] * c + y[near[part]]
        votes = np.bincount(cell.ravel(), weight.ravel(), minlength=len(weight) * c).reshape(-1, c)
        said[part] = known[votes.argmax(axis=1)]            # the first, so the lowest, on a tie
    return said
