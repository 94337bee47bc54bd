"""Mini-batch k-means: centroids that move a little after every few thousand rows.

Sculley, "Web-scale k-means clustering", WWW 2010, with the step by counts and the reassignment of starved centroids that
scikit-learn's `MiniBatchKMeans` has.  A pass takes every row once, in an order of its own drawn by the key; a batch's rows are
read in ascending order, so that rows on disk are read forwards.  Labels are those of one exact search at the end.

Memory beside ``x`` (N, D): 24 N + 60 K D bytes and a batch of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ucl.keys import Key
from ucl.kmeans import KMeansResult, check_k, every_row, faiss_threads, finish
from ucl.matrix import Rows, chunks, gather


def minibatch(x: Rows, k: int, *, batch: int, passes: int, reassign: float, redo: int, spherical: bool, empty: str, key: Key,
              init: NDArray[np.float32] | None = None, threads: int = 0) -> KMeansResult:
    """Mini-batch k-means; equal arguments give equal bits at an equal number of threads, wherever the rows lie.

    After each batch a centroid becomes the mean of all rows that any batch so far has given it.  Every 10 K rows, and while a
    centroid has had none, those with fewer than ``reassign`` times the rows of the largest are put on rows of the batch; at most
    half a batch at a time.

    Args:
        x: rows (N, D) float32, finite.
        k: number of clusters; K = N gives labels 0..N-1 at once.
        batch: rows of a batch.
        passes: how often every row is taken.
        reassign: see above; 0 = never.
        redo: starts, of which the one of the lowest objective is kept; with ``init`` there is one.
        spherical: normalise the centroids after each batch.
        empty: clusters empty at the end, as for `kmeans`.
        key: names every draw.
        init: initial centroids (K, D) float32, else K distinct rows are drawn.
        threads: faiss' threads; 0 leaves them alone.

    Returns:
        As `kmeans`: ``objectives`` are the sums over each pass, measured before its updates; ``iterations_run`` counts the
        batches, ``splits`` the centroids put elsewhere.

    Raises:
        UsageError: k < 2 or k > N.
        DataError: empty clusters under "error".
    """
    check_k(k, len(x))
    if k == len(x):
        return every_row(x, spherical=spherical)
    best: KMeansResult | None = None
    with faiss_threads(threads):
        for start in range(redo if init is None else 1):
            here = key if not start else key.at(round=key.round, stage=f"{key.stage}/{start}")
            begin = gather(x, here.permutation("minibatch-start", len(x))[:k]) if init is None else init
            centroid, objectives, steps, moved = _walk(x, begin.astype(np.float64), batch, passes, reassign, spherical, here)
            found = finish(x, centroid, empty=empty, spherical=spherical, objectives=objectives, iterations_run=steps, splits=moved)
            if best is None or found.objective < best.objective:
                best = found
    assert best is not None
    return best


def _walk(x: Rows, centroid: NDArray[np.float64], batch: int, passes: int, reassign: float, spherical: bool,
          key: Key) -> tuple[NDArray[np.float32], tuple[float, ...], int, int]:
    """Centroids (K, D) after all passes, the objective of each pass, batches, and centroids reassigned."""
    count = np.zeros(len(centroid), np.float64)
    objectives, steps, moved, since = [], 0, 0, 0
    for number in range(passes):
        order = key.permutation(f"minibatch-{number}", len(x))
        objective = 0.0
        for part in chunks(len(order), batch):
            rows = gather(x, np.sort(order[part]))
            objective += _step(rows, centroid, count)
            since += len(rows)
            if reassign and (since >= 10 * len(centroid) or not count.all()):
                moved += _reassign(rows, centroid, count, reassign, key, steps)
                since = 0
            if spherical:
                length = np.linalg.norm(centroid, axis=1)
                centroid /= np.where(length > 0, length, 1)[:, None]
            steps += 1
        objectives.append(objective)
    return centroid.astype(np.float32), tuple(objectives), steps, moved


def _step(rows: NDArray[np.float32], centroid: NDArray[np.float64], count: NDArray[np.float64]) -> float:
    """Assign a batch and move the centroids, in place; the batch's objective before."""
    import faiss
    from scipy.sparse import csr_array

    index = faiss.IndexFlatL2(centroid.shape[1])
    index.add(centroid.astype(np.float32))
    distance, found = index.search(rows, 1)
    there, at, members = np.unique(found[:, 0], return_inverse=True, return_counts=True)
    pick = csr_array((np.ones(len(rows)), (at, np.arange(len(rows)))), shape=(len(there), len(rows)))
    total = centroid[there] * count[there][:, None] + pick @ rows.astype(np.float64)
    count[there] += members
    centroid[there] = total / count[there][:, None]
    return float(distance.sum(dtype=np.float64))


def _reassign(rows: NDArray[np.float32], centroid: NDArray[np.float64], count: NDArray[np.float64], share: float, key: Key,
              step: int) -> int:
    """Put starved centroids on rows of the batch, in place; how many.  They count as the poorest of the others do."""
    starved = np.flatnonzero(count < share * count.max())
    starved = starved[np.argsort(count[starved], kind="stable")][:len(rows) // 2]
    if len(starved):
        chosen = key.permutation(f"minibatch-reassign-{step}", len(rows))[:len(starved)]
        centroid[starved] = rows[chosen]
        others = np.ones(len(count), bool)
        others[starved] = False
        count[starved] = count[others].min()
    return len(starved)
