"""k-means by faiss, with what faiss leaves open settled: its rows, its start, its empty clusters.

faiss runs at the speed of its matrix product, so nothing is gained by another loop in Python.  What is added
is DeepCluster's contract: labels are the argmin over the centroids that are written, the number of rows never
changes behind one's back, and every draw is keyed.

Memory beside ``x`` (N, D): 16 N + 8 K D bytes and faiss' blocks of 4096 x 1024 distances; a subsample of
``max_points`` rows, if asked for, is a copy of them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, UsageError
from ucl.keys import Key

log = logging.getLogger(__name__)

ROUNDS = 50
"""Most rounds of relocation; one or two are usual."""

ROWS = 8192


@dataclass(frozen=True)
class KMeansResult:
    """What k-means found.

    Attributes:
        centroid: (K, D) float32.
        labels: (N,) int32, argmin over the centroids of the squared distance.
        objective: sum of the squared distances of ``labels``, in float64, over all N rows.
        objectives: faiss' objective at each iteration of the best start, measured before its update, over the
            rows it was trained on.
        iterations_run: iterations of the best start; 0 where K = N.
        splits: large clusters split by faiss in place of empty ones, over all iterations of the best start.
        relocated: centroids moved after the last iteration; 0 unless ``empty`` is "relocate".
        empty: clusters without members in ``labels``.
    """

    centroid: NDArray[np.float32]
    labels: NDArray[np.int32]
    objective: float
    objectives: tuple[float, ...] = ()
    iterations_run: int = 0
    splits: int = 0
    relocated: int = 0
    empty: int = 0

    @property
    def faiss_objective(self) -> float:
        """faiss' own last objective, NaN where it did not run; DeepCluster reports this one."""
        return self.objectives[-1] if self.objectives else float("nan")


@contextlib.contextmanager
def faiss_threads(threads: int) -> Iterator[None]:
    """Let faiss use ``threads`` threads inside a ``with``; 0 leaves it alone."""
    import faiss

    before = faiss.omp_get_max_threads()
    if threads > 0:
        faiss.omp_set_num_threads(threads)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def kmeans(x: NDArray[np.float32], k: int, *, iterations: int, redo: int, seed: int, spherical: bool,
           max_points: int, empty: str, init: NDArray[np.float32] | None = None, key: Key | None = None,
           threads: int = 0) -> KMeansResult:
    """Lloyd's k-means as DeepCluster's released code runs it: `faiss.Clustering` on all rows.

    Every iteration asked for is run: faiss 1.15 would stop early where its objective does not fall, which
    a split can cause as well as convergence.  Equal arguments give equal bits at an equal number of threads.

    Args:
        x: rows (N, D) float32, finite.
        k: number of clusters; K = N gives labels 0..N-1 at once.
        iterations: iterations of each start.
        redo: starts, of which the one of the lowest last objective is kept; with ``init`` there is one.
        seed: faiss' seed, a C int; the initial centroids are K distinct rows drawn by it.
        spherical: normalise the centroids after each iteration.
        max_points: train on at most so many rows, drawn by ``key``; 0 = all.  Labels are those of all rows
            always.
        empty: clusters empty at the end: "leave", "relocate" (see `_relocate`) or "error".
        init: initial centroids (K, D) float32, or None.
        key: names the draw of ``max_points``.
        threads: faiss' threads; 0 leaves them alone.

    Raises:
        UsageError: k < 2, k > N, or max_points below k.
        DataError: empty clusters under "error".
    """
    check_k(k, len(x))
    x = np.ascontiguousarray(x, np.float32)
    if k == len(x):
        centroid = _unit(x) if spherical else x.copy()
        labels = np.arange(k, dtype=np.int32)
        return KMeansResult(centroid, labels, float(squared_distances(x, centroid, labels).sum()))
    rows = _subsample(x, k, max_points, key or Key())
    with faiss_threads(threads):
        starts = redo if init is None else 1
        centroid, objectives, splits = _train(rows, k, iterations, starts, seed, spherical, init)
        del rows
        labels = nearest(x, centroid)
        distance = squared_distances(x, centroid, labels)
        relocated = 0
        if empty == "relocate":
            centroid, labels, distance, relocated = _relocate(x, centroid, labels, distance, spherical)
    gone = k - int((np.bincount(labels, minlength=k) > 0).sum())
    if gone and empty == "error":
        raise DataError(f"k-means: {gone} of {k} clusters are empty",
                        f"-k {k - gone} or fewer, or --empty relocate")
    return KMeansResult(centroid, labels, float(distance.sum()), objectives, iterations_run=len(objectives),
                        splits=splits, relocated=relocated, empty=gone)


def check_k(k: int, n: int) -> None:
    """Raise UsageError unless 2 <= k <= n; DataError if n < 2."""
    if n < 2:
        raise DataError(f"features: found {n} usable images, wanted at least 2", "two clusters need two images")
    if k < 2:
        raise UsageError(f"k: found {k}, wanted at least 2")
    if k > n:
        raise UsageError(f"k: found {k}, wanted at most {n}, the number of usable images", f"-k {n} or fewer")


def nearest(x: NDArray[np.float32], centroid: NDArray[np.float32]) -> NDArray[np.int32]:
    """Nearest centroid of every row by squared distance; (N, D), (K, D) -> (N,) int32."""
    import faiss

    index = faiss.IndexFlatL2(centroid.shape[1])
    index.add(np.ascontiguousarray(centroid, np.float32))
    labels: NDArray[np.int32] = index.search(np.ascontiguousarray(x, np.float32), 1)[1][:, 0].astype(np.int32)
    return labels


def squared_distances(x: NDArray[np.float32], centre: NDArray[np.float32],
                      labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Squared distance of every row to the centre of its label, by differences in float64; (N,) float64.

    Args:
        x: (N, D) float32; centre: (K, D) float32; labels: (N,) int32 in 0..K-1.
    """
    out = np.empty(len(x), np.float64)
    for start in range(0, len(x), ROWS):
        part = slice(start, start + ROWS)
        difference = x[part].astype(np.float64) - centre[labels[part]]
        out[part] = np.einsum("nd,nd->n", difference, difference)
    return out


def member_means(x: NDArray[np.float32], labels: NDArray[np.int32],
                 k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Arithmetic mean of each cluster's members, summed in float64 in row order, and their number.

    Args:
        x: (N, D) float32.
        labels: (N,) int32 in -1..K-1; -1 belongs nowhere.
        k: number of clusters.

    Returns:
        (K, D) float64, zero for an empty cluster, and (K,) int64.
    """
    from scipy.sparse import csr_array

    total = np.zeros((k, x.shape[1]), np.float64)
    for start in range(0, len(x), ROWS):
        y = labels[start:start + ROWS]
        member = np.flatnonzero(y >= 0)
        if len(member):
            pick = csr_array((np.ones(len(member)), (y[member], member)), shape=(k, len(y)))
            total += pick @ x[start:start + ROWS].astype(np.float64)
    size = np.bincount(labels[labels >= 0], minlength=k).astype(np.int64)
    return total / np.maximum(size, 1)[:, None], size


def initial_means(x: NDArray[np.float32], labels: NDArray[np.int32], k: int,
                  key: Key) -> tuple[NDArray[np.float32], int]:
    """Centroids to start from: the means of ``x`` by labels of another epoch, so that ids persist.

    A cluster without members starts at a row drawn by ``key``; these rows are distinct.

    Args:
        x: rows (N, D) float32 of this epoch.
        labels: labels (N,) int32 of the last one, in -1..K-1.
        k: number of clusters.
        key: names the draw.

    Returns:
        (K, D) float32, and how many start at a drawn row.
    """
    mean, size = member_means(x, labels, k)
    start = mean.astype(np.float32)
    empty = np.flatnonzero(size == 0)
    start[empty] = x[key.permutation("warm-start", len(x))[:len(empty)]]
    return start, len(empty)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length; zero rows stay zero."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    unit: NDArray[np.float32] = (x / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)
    return unit


def _subsample(x: NDArray[np.float32], k: int, max_points: int, key: Key) -> NDArray[np.float32]:
    """``x``, or ``max_points`` of its rows drawn by ``key``, in row order."""
    if not max_points or max_points >= len(x):
        return x
    if max_points < k:
        raise UsageError(f"max_points: found {max_points}, wanted at least k = {k}, or 0 for all",
                         f"--max-points {50 * k}")
    return x[np.sort(key.permutation("max-points", len(x))[:max_points])]


def _train(x: NDArray[np.float32], k: int, iterations: int, redo: int, seed: int, spherical: bool,
           init: NDArray[np.float32] | None) -> tuple[NDArray[np.float32], tuple[float, ...], int]:
    """Centroids (K, D), faiss' objectives and its number of splits.

    The index is the flat L2 one for spherical k-means too: to centroids of unit length the nearest by
    distance is the nearest by inner product.
    """
    import faiss

    job: Any = faiss.Clustering(x.shape[1], k)
    job.niter, job.nredo, job.seed, job.spherical, job.verbose = iterations, redo, seed, spherical, False
    job.min_points_per_centroid, job.max_points_per_centroid = 1, len(x) // k + 1     # silent and whole
    if hasattr(job, "early_stop_threshold"):        # faiss 1.15 stops where the objective does not fall
        job.early_stop_threshold = -1.0
    if init is not None:
        if init.shape != (k, x.shape[1]):
            raise ValueError(f"init: shape {init.shape}, expected {(k, x.shape[1])}")
        faiss.copy_array_to_vector(np.ascontiguousarray(init, np.float32).ravel(), job.centroids)
    if len(x) == k:                                 # max_points = k: faiss takes the rows as they are
        return _unit(x) if spherical else x.copy(), (), 0
    job.train(x, faiss.IndexFlatL2(x.shape[1]))
    # faiss appends the starts after each other, up to the best one
    stats = [job.iteration_stats.at(i) for i in range(job.iteration_stats.size())][-iterations:]
    centroid = faiss.vector_to_array(job.centroids).reshape(k, x.shape[1]).copy()
    return centroid, tuple(float(s.obj) for s in stats), sum(int(s.nsplit) for s in stats)


def _donors(distance: NDArray[np.float64], labels: NDArray[np.int32], size: NDArray[np.int64],
            count: int) -> NDArray[np.int64]:
    """The ``count`` rows farthest from their centroids that leave each cluster a member; ties by row."""
    left, found = size.copy(), []
    for row in np.argsort(-distance, kind="stable").tolist():
        if left[labels[row]] >= 2:
            left[labels[row]] -= 1
            found.append(row)
            if len(found) == count:
                break
    return np.array(found, np.int64)


def _relocate(x: NDArray[np.float32], centroid: NDArray[np.float32], labels: NDArray[np.int32],
              distance: NDArray[np.float64], spherical: bool,
              ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float64], int]:
    """Move the centroid of every empty cluster to the row farthest from its own.

    Rows are taken from clusters of two or more only.  The other centroids stay, so a row's nearest centroid
    is the old one or one of the moved ones: only these are searched.  A donor belongs to the centroid on top
    of it, others change only if that is strictly nearer; labels stay the argmin.  Repeated where a donor's
    cluster is emptied by this, at most `ROUNDS` times; the objective falls.
    """
    k, moved = len(centroid), 0
    centroid, labels, distance = centroid.copy(), labels.copy(), distance.copy()
    for _ in range(ROUNDS):
        size = np.bincount(labels, minlength=k)
        empty = np.flatnonzero(size == 0)
        if not len(empty):
            return centroid, labels, distance, moved
        donor = _donors(distance, labels, size, len(empty))
        centroid[empty] = _unit(x[donor]) if spherical else x[donor]
        moved += len(empty)
        other = empty[nearest(x, centroid[empty])].astype(np.int32)
        other[donor] = empty
        there = squared_distances(x, centroid, other)
        nearer = there < distance
        nearer[donor] = True
        labels, distance = np.where(nearer, other, labels), np.where(nearer, there, distance)
    left = k - len(np.unique(labels))
    if left:
        log.warning("k-means: %d clusters are still empty after %d rounds of relocation", left, ROUNDS)
    return centroid, labels, distance, moved
