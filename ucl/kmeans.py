"""k-means as faiss' `Clustering` computes it, on rows that need not fit into memory.

The searches are faiss', which runs at the speed of its matrix product; the loop around them is here, so that rows can be read
in chunks.  Centroids, labels and objectives have the bits of faiss.Clustering: the same initial rows, float32 sums in row
order, the same splits of large clusters in place of empty ones.  What is added is DeepCluster's contract: labels are the argmin
over the centroids that are written, the number of rows never changes behind one's back, and every draw is keyed.

Memory beside ``x`` (N, D): 24 N + 60 K D bytes, a chunk of 8,192 rows, and faiss' blocks of 4096 x 1024 distances; a subsample
of ``max_points`` rows, if asked for, is a copy of them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ucl.errors import DataError, UsageError
from ucl.keys import Key
from ucl.matrix import Rows, chunks, gather
from ucl.memory import SEARCH_ROWS as ROWS

log = logging.getLogger(__name__)

ROUNDS = 50
"""Most rounds of relocation; one or two are usual."""

BLAS_FROM = 128_000
"""faiss compares few rows one by one: below so many numbers in all of them (faiss 1.15)."""

OFFERS = 10
"""faiss 1.15: rounds in which large clusters are offered to an empty one."""

EPSILON = 1 / 1024
"""faiss: share by which the halves of a cluster that is split differ from it."""


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


@contextlib.contextmanager
def searching(x: Rows) -> Iterator[int]:
    """Let faiss compare rows chunk by chunk as it would compare all of them at once; gives the number of rows of a chunk.

    Below `BLAS_FROM` numbers it goes from row to row, in shares for its threads, and the last bits of distances depend on the
    shares: so few are one chunk.  From there on it takes matrix products of 4,096 rows each, and chunks of a multiple of that
    have the bits of the whole, if they too are told to take the product.  Chunks of an array are no copies, and larger.
    """
    import faiss

    if len(x) * x.shape[1] < BLAS_FROM:
        yield len(x)
        return
    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 0
    try:
        yield 16 * ROWS if isinstance(x, np.ndarray) else ROWS
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def kmeans(x: Rows, k: int, *, iterations: int, redo: int, seed: int, spherical: bool,
           max_points: int, empty: str, init: NDArray[np.float32] | None = None, key: Key | None = None,
           threads: int = 0) -> KMeansResult:
    """Lloyd's k-means as DeepCluster's released code runs it: `faiss.Clustering` on all rows.

    Every iteration asked for counts: faiss 1.15 would stop early where its objective does not fall, which
    a split can cause as well as convergence.  Once an iteration changes no label all that follow would do the
    same again, and are left out.  Equal arguments give equal bits at an equal number of threads, wherever the
    rows lie.

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
    if isinstance(x, np.ndarray):
        x = np.ascontiguousarray(x, np.float32)
    if k == len(x):
        return every_row(x, spherical=spherical)
    rows = _subsample(x, k, max_points, key or Key())
    with faiss_threads(threads):
        starts = redo if init is None else 1
        run = _train(rows, k, iterations, starts, seed, spherical, init)
        found = run.labels if rows is x else None
        del rows
        return finish(x, run.centroid, empty=empty, spherical=spherical, labels=found, objectives=run.objectives,
                      iterations_run=len(run.objectives), splits=run.splits)


def every_row(x: Rows, *, spherical: bool) -> KMeansResult:
    """As many clusters as rows: labels 0..N-1, each row its own centroid."""
    whole = np.array(x[:], np.float32)
    centroid, labels = _unit(whole) if spherical else whole, np.arange(len(x), dtype=np.int32)
    return KMeansResult(centroid, labels, float(squared_distances(x, centroid, labels).sum()))


def finish(x: Rows, centroid: NDArray[np.float32], *, empty: str, spherical: bool, labels: NDArray[np.int32] | None = None,
           objectives: tuple[float, ...] = (), iterations_run: int = 0, splits: int = 0) -> KMeansResult:
    """The result of centroids: the labels of all rows, and what is to be done about empty clusters.

    Args:
        x: rows (N, D) float32; centroid: (K, D) float32.
        empty: "leave", "relocate" (see `_relocate`) or "error".
        labels: the nearest centroids (N,) int32, if they are known already.
        objectives, iterations_run, splits: as they go into the result.

    Raises:
        DataError: empty clusters under "error".
    """
    k = len(centroid)
    labels = nearest(x, centroid) if labels is None else labels
    distance = squared_distances(x, centroid, labels)
    relocated = 0
    if empty == "relocate":
        centroid, labels, distance, relocated = _relocate(x, centroid, labels, distance, spherical)
    gone = k - int((np.bincount(labels, minlength=k) > 0).sum())
    if gone and empty == "error":
        raise DataError(f"k-means: {gone} of {k} clusters are empty",
                        f"-k {k - gone} or fewer, or --empty relocate")
    return KMeansResult(centroid, labels, float(distance.sum()), objectives, iterations_run, splits, relocated, gone)


def check_k(k: int, n: int) -> None:
    """Raise UsageError unless 2 <= k <= n; DataError if n < 2."""
    if n < 2:
        raise DataError(f"features: found {n} usable images, wanted at least 2", "two clusters need two images")
    if k < 2:
        raise UsageError(f"k: found {k}, wanted at least 2")
    if k > n:
        raise UsageError(f"k: found {k}, wanted at most {n}, the number of usable images", f"-k {n} or fewer")


def nearest(x: Rows, centroid: NDArray[np.float32]) -> NDArray[np.int32]:
    """Nearest centroid of every row by squared distance; (N, D), (K, D) -> (N,) int32."""
    labels = np.empty(len(x), np.int32)
    for part, _, found, _ in _search(x, centroid):
        labels[part] = found
    return labels


def _search(x: Rows, centroid: NDArray[np.float32],
            ) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]]:
    """For each chunk of rows: where it is, the rows, their nearest centroids (int64) and faiss' squared distances."""
    import faiss

    index = faiss.IndexFlatL2(centroid.shape[1])
    index.add(np.ascontiguousarray(centroid, np.float32))
    with searching(x) as size:
        for part in chunks(len(x), size):
            rows = np.ascontiguousarray(x[part], np.float32)
            distance, found = index.search(rows, 1)
            yield part, rows, found[:, 0], distance[:, 0]


def squared_distances(x: Rows, centre: NDArray[np.float32],
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


def member_means(x: Rows, labels: NDArray[np.int32],
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
    for part in chunks(len(x), ROWS):
        y = labels[part]
        member = np.flatnonzero(y >= 0)
        if len(member):
            there, at = np.unique(y[member], return_inverse=True)
            pick = csr_array((np.ones(len(member)), (at, member)), shape=(len(there), len(y)))
            total[there] += pick @ x[part].astype(np.float64)
    size = np.bincount(labels[labels >= 0], minlength=k).astype(np.int64)
    return total / np.maximum(size, 1)[:, None], size


def initial_means(x: Rows, labels: NDArray[np.int32], k: int,
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
    start[empty] = gather(x, key.permutation("warm-start", len(x))[:len(empty)])
    return start, len(empty)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length; zero rows stay zero."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    unit: NDArray[np.float32] = (x / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)
    return unit


def _subsample(x: Rows, k: int, max_points: int, key: Key) -> Rows:
    """``x``, or ``max_points`` of its rows drawn by ``key``, in row order."""
    if not max_points or max_points >= len(x):
        return x
    if max_points < k:
        raise UsageError(f"max_points: found {max_points}, wanted at least k = {k}, or 0 for all",
                         f"--max-points {50 * k}")
    return gather(x, np.sort(key.permutation("max-points", len(x))[:max_points]))


class _Run(NamedTuple):
    """One start: centroids (K, D), the objective before each update, number of splits, and the labels if no search is left to do."""

    centroid: NDArray[np.float32]
    objectives: tuple[float, ...]
    splits: int
    labels: NDArray[np.int32] | None = None


def _train(x: Rows, k: int, iterations: int, redo: int, seed: int, spherical: bool, init: NDArray[np.float32] | None) -> _Run:
    """The start whose last objective is the lowest, the first of them on a tie.

    The distance is the Euclidean one for spherical k-means too: to centroids of unit length the nearest by
    distance is the nearest by inner product.
    """
    if init is not None and init.shape != (k, x.shape[1]):
        raise ValueError(f"init: shape {init.shape}, expected {(k, x.shape[1])}")
    if len(x) == k:                                 # max_points = k: faiss takes the rows as they are
        whole = np.array(x[:], np.float32)
        return _Run(_unit(whole) if spherical else whole, (), 0)
    best: _Run | None = None
    for number in range(redo):
        start = _drawn(x, k, seed + 1 + number * 15486557) if init is None else np.array(init, np.float32)
        run = _lloyd(x, start, iterations, spherical)
        if best is None or run.objectives[-1] < best.objectives[-1]:
            best = run
    assert best is not None
    return best


def _drawn(x: Rows, k: int, seed: int) -> NDArray[np.float32]:
    """The K distinct rows that faiss starts from."""
    import faiss

    order = np.empty(len(x), np.int32)
    library: Any = faiss
    library.rand_perm(faiss.swig_ptr(order), len(x), seed)
    return gather(x, order[:k].astype(np.int64))


def _lloyd(x: Rows, centroid: NDArray[np.float32], iterations: int, spherical: bool) -> _Run:
    """Assign and update, ``iterations`` times; ``centroid`` (K, D) is worked on in place."""
    import faiss

    if spherical:
        faiss.normalize_L2(centroid)
    objectives: list[float] = []
    splits, last = 0, 0
    labels, before = np.empty(len(x), np.int32), np.empty(0, np.int32)
    while len(objectives) < iterations:
        total, objective = _assign(x, centroid, labels)
        objectives.append(objective)
        if np.array_equal(labels, before):          # the means are what they were, and so is all that follows
            left = iterations - len(objectives)
            return _Run(centroid, (*objectives, *[objective] * left), splits + last * (left + 1), labels)
        size = np.bincount(labels, minlength=len(centroid)).astype(np.float32)
        filled = size > 0
        centroid[:] = total
        centroid[filled] *= (np.float32(1) / size[filled])[:, None]
        last = _split(centroid, size, len(x))
        splits += last
        if spherical:
            faiss.normalize_L2(centroid)
        before, labels = labels, (before if len(before) else np.empty(len(x), np.int32))
    return _Run(centroid, tuple(objectives), splits)


def _assign(x: Rows, centroid: NDArray[np.float32], labels: NDArray[np.int32]) -> tuple[NDArray[np.float32], float]:
    """Labels of all rows into ``labels``; the sum of each cluster's rows (K, D), and of their distances.

    Sums are float32, one row after the other, as faiss': a chunk's rows are added to the sums of those before it.
    """
    from scipy.sparse import csr_array

    total = np.zeros_like(centroid)
    objective = np.float32(0)
    for part, rows, found, distance in _search(x, centroid):
        labels[part] = found
        objective = np.cumsum(np.concatenate(([objective], distance)), dtype=np.float32)[-1]
        if not part.start:  # nothing to add to: the rows need not be copied
            order = np.argsort(found.astype(np.uint16) if len(total) <= 1 << 16 else found, kind="stable").astype(np.int32)
            ends = np.zeros(len(total) + 1, np.int32)
            np.cumsum(np.bincount(found, minlength=len(total)), out=ends[1:])
            total[:] = csr_array((np.ones(len(rows), np.float32), order, ends), shape=(len(total), len(rows))) @ rows
            continue
        for some in chunks(len(rows), ROWS):
            there, at = np.unique(found[some], return_inverse=True)
            stack = np.concatenate([total[there], rows[some]])
            to = np.concatenate([np.arange(len(there)), at])
            pick = csr_array((np.ones(len(stack), np.float32), (to, np.arange(len(stack)))), shape=(len(there), len(stack)))
            total[there] = pick @ stack
    return total, float(objective)


def _split(centroid: NDArray[np.float32], size: NDArray[np.float32], n: int) -> int:
    """faiss' repair: each empty cluster takes half of another, drawn with a probability that grows with its size; in place.

    Clusters are offered in turn, each with a draw of its own; after ten rounds without a taker the largest is split.
    Returns how many were split.
    """
    empty = np.flatnonzero(size == 0)
    if not len(empty):
        return 0
    draws = _Draws()
    even = np.where(np.arange(centroid.shape[1]) % 2 == 0, 1 + EPSILON, 1 - EPSILON)
    chance = ((size.astype(np.float64) - 1) / (n - len(size))).astype(np.float32)
    for c in empty.tolist():
        donor = draws.first_below(chance, OFFERS * len(size))
        donor = int(size.argmax()) if donor < 0 else donor
        old = centroid[donor].astype(np.float64)
        centroid[c], centroid[donor] = old * even, old * (2 - even)
        size[c] = size[donor] / 2
        size[donor] -= size[c]
        chance[[c, donor]] = (size[[c, donor]].astype(np.float64) - 1) / (n - len(size))
    return len(empty)


class _Draws:
    """The numbers in [0, 1] that faiss draws for its splits: Mersenne Twister, seeded with 1234 in every iteration anew."""

    def __init__(self) -> None:
        key = [1234]
        for i in range(1, 624):
            key.append((1812433253 * (key[-1] ^ (key[-1] >> 30)) + i) & 0xFFFFFFFF)
        self._bits = np.random.MT19937(0)
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": np.array(key, np.uint32), "pos": 624}}
        self._ready = np.empty(0, np.float32)

    def first_below(self, chance: NDArray[np.float32], most: int) -> int:
        """Walks round and round over ``chance``, a draw at each; where the first draw is below it, -1 if none of ``most`` is."""
        at, width = 0, 64
        while most:
            width = min(width, len(chance) - at, most)
            if len(self._ready) < width:
                more = self._bits.random_raw(max(width, 4096)).astype(np.float32) / np.float32(2**32)
                self._ready = np.concatenate([self._ready, more])
            hit = np.flatnonzero(self._ready[:width] < chance[at:at + width])
            if len(hit):
                self._ready = self._ready[hit[0] + 1:]
                return at + int(hit[0])
            self._ready = self._ready[width:]
            at, width, most = (at + width) % len(chance), width * 4, most - width
        return -1


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


def _relocate(x: Rows, centroid: NDArray[np.float32], labels: NDArray[np.int32],
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
        there = gather(x, donor)
        centroid[empty] = _unit(there) if spherical else there
        moved += len(empty)
        other = empty[nearest(x, centroid[empty])].astype(np.int32)
        other[donor] = empty
        moved_to = squared_distances(x, centroid, other)
        nearer = moved_to < distance
        nearer[donor] = True
        labels, distance = np.where(nearer, other, labels), np.where(nearer, moved_to, distance)
    left = k - len(np.unique(labels))
    if left:
        log.warning("k-means: %d clusters are still empty after %d rounds of relocation", left, ROUNDS)
    return centroid, labels, distance, moved
